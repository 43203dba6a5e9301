"""What Chromium may do at a kiosk: its managed policies, which neither a page nor a passer-by can change.

Names and values are those of https://chromeenterprise.google/policies/ (in Chromium's source:
components/policy/resources/templates). Chromium 156 knows all of them; an older one ignores those that it does not.
"""

from __future__ import annotations

import json
from typing import Any

_BLOCK = 2

#: What a page could ask the browser for, other than the camera.
_PERMISSIONS = {
    "AudioCaptureAllowed": False,
    "ScreenCaptureAllowed": False,
    **dict.fromkeys(
        [
            "DefaultClipboardSetting",
            "DefaultFileSystemReadGuardSetting",
            "DefaultFileSystemWriteGuardSetting",
            "DefaultGeolocationSetting",
            "DefaultLocalFontsSetting",
            "DefaultNotificationsSetting",
            "DefaultPopupsSetting",
            "DefaultSensorsSetting",
            "DefaultSerialGuardSetting",
            "DefaultWebBluetoothGuardSetting",
            "DefaultWebHidGuardSetting",
            "DefaultWebUsbGuardSetting",
            "DefaultWindowManagementSetting",
        ],
        _BLOCK,
    ),
}

#: What the browser sends by itself.
_CONNECTIONS = {
    "AlternateErrorPagesEnabled": False,
    "BackgroundModeEnabled": False,
    "BrowserNetworkTimeQueriesEnabled": False,
    "BrowserSignin": 0,
    "ChromeVariations": 2,
    "ComponentUpdatesEnabled": False,
    "DefaultSearchProviderEnabled": False,
    "DnsOverHttpsMode": "off",
    "DomainReliabilityAllowed": False,
    "EnableMediaRouter": False,
    "FeedbackSurveysEnabled": False,
    "MetricsReportingEnabled": False,
    "NetworkPredictionOptions": 2,
    "SafeBrowsingProtectionLevel": 0,
    "SearchSuggestEnabled": False,
    "SpellCheckServiceEnabled": False,
    "SyncDisabled": True,
    "TranslateEnabled": False,
    "UrlKeyedAnonymizedDataCollectionEnabled": False,
    "UserFeedbackAllowed": False,
    "WPADQuickCheckEnabled": False,
}

#: What it would keep, and the ways out of the page.
_PROFILE = {
    "AllowFileSelectionDialogs": False,
    "AutofillAddressEnabled": False,
    "AutofillCreditCardEnabled": False,
    "BookmarkBarEnabled": False,
    "BrowserAddPersonEnabled": False,
    "BrowserGuestModeEnabled": False,
    "DefaultBrowserSettingEnabled": False,
    "DeveloperToolsAvailability": 2,
    "DownloadRestrictions": 3,
    "EditBookmarksEnabled": False,
    "ExtensionInstallBlocklist": ["*"],
    "IncognitoModeAvailability": 1,
    "PasswordManagerEnabled": False,
    "PaymentMethodQueryEnabled": False,
    "PrintingEnabled": False,
    "PromotionsEnabled": False,
    "SavingBrowserHistoryDisabled": True,
    "TaskManagerEndProcessEnabled": False,
}


def policy(origin: str) -> dict[str, Any]:
    """Policies by name: the camera and every address belong to one origin (`http://localhost:8080`) alone."""
    of_origin = {
        "NewTabPageLocation": origin,
        "URLAllowlist": [origin],
        "URLBlocklist": ["*"],
        "VideoCaptureAllowed": False,
        "VideoCaptureAllowedUrls": [origin],
    }
    return dict(sorted((of_origin | _PERMISSIONS | _CONNECTIONS | _PROFILE).items()))


def policy_text(origin: str) -> str:
    """The same as the text of a file."""
    return json.dumps(policy(origin), indent=1) + "\n"

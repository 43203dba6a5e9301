"""Errors of the runtime: one base, children that are also the builtin a caller would expect."""


class FaceInsightError(Exception):
    """Base of every error this package raises on purpose."""


class ImageError(FaceInsightError, ValueError):
    """The image is not one we decode: wrong format, damaged, too large."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """The image file is not there."""


class BundleError(FaceInsightError, ValueError):
    """The bundle is damaged, inconsistent or from another version."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """No bundle, or no such file in a bundle."""


class DeviceError(FaceInsightError, RuntimeError):
    """A requested device or provider is not available."""


class DependencyError(FaceInsightError, ImportError):
    """A library that this step needs is not installed."""


class MemoryShortError(FaceInsightError, MemoryError):
    """Memory is short, or what else a thread or a library needs to start."""


class PolicyError(FaceInsightError, ValueError):
    """A characteristic or topic that this bundle or this session does not allow."""


class QuestionError(FaceInsightError, ValueError):
    """The question is empty or too long."""


class RequestError(FaceInsightError, ValueError):
    """A call's arguments do not fit: an unknown face, array shape or option."""

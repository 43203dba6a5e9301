"""Tables of the server: what it costs, what it stands, and how it compares with llama-server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
Row = tuple[str, ...]
OURS, LARGE, SMALL = "faceinsight", "llama-server, SigLIP-B/16 at 512", "llama-server, ViT-Ti/16 at 128"
ROUTER = f"{SMALL}, router mode"
STAYED = "answers of those who stayed that were harmed"


def cost(result: Figures) -> tuple[Row, list[Row]]:
    """Latency added to the library's, and an overload."""
    rows: list[Row] = []
    for name in ("report", "report of a JPEG", "first token of a known face"):
        found = result[name]
        times = (f"{found[arm]['p50 ms']:.1f} / {found[arm]['p99 ms']:.1f}" for arm in ("library", "server"))
        rows.append((name, *times, f"{found['added p50 ms']:.1f} / {found['added p99 ms']:.1f}"))
    return ("milliseconds, p50 / p99", "library", "server", "added"), rows


def overload(result: Figures) -> tuple[Row, list[Row]]:
    """Many clients at a time."""
    found = result["overload"]
    answers = found["answers"]
    refused = sum(n for status, n in answers.items() if status.startswith("429"))
    others = sum(n for status, n in answers.items() if not status.startswith(("200", "429")))
    names = [f"resident MB {when}" for when in ("before", "after a third", "after")]
    moments = [found[name] for name in names if name in found]
    rows: list[Row] = [
        ("clients, seconds", f"{found['clients']}, {found['seconds']:.0f}"),
        ("answered", f"{answers['200']:,}"),
        ("turned away with 429; without a Retry-After", f"{refused:,}; {answers.get('429 without Retry-After', 0)}"),
        ("any other status", str(others)),
        ("waiting at most, of a limit of", f"{found['queue at most']:.0f}, {found['queue limit']:.0f}"),
        ("one client alone, p50", f"{found['alone']['p50 ms']:.0f} ms"),
        ("in the worker under this load, mean", f"{found['service ms']:.0f} ms"),
        ("an admitted request, p50 / p99", f"{found['admitted']['p50 ms']:.0f} / {found['admitted']['p99 ms']:.0f} ms"),
        (
            "resident memory before, meanwhile, at the end: server; worker",
            "; ".join(" -> ".join(f"{m[process]:.0f}" for m in moments) + " MB" for process in ("parent", "worker")),
        ),
    ]
    return ("", ""), rows


def endurance(result: Figures) -> tuple[Row, list[Row]]:
    """What a month may bring, in an hour: the parts that were measured."""
    rows: list[Row] = []
    if kills := result.get("kills"):
        ready = kills["ready again"]
        harm = (kills[name] for name in ("answers of others that were harmed", "zombies at most", "descriptors leaked"))
        by_way = ", ".join(f"{way} {found['p50 ms'] / 1e3:.1f} s" for way, found in ready.items())
        rows += [
            (f"{kills['kills']} workers ended in the middle of a request: ready again, p50", by_way),
            ("the slowest", f"{max(found['p99 ms'] for found in ready.values()) / 1e3:.1f} s"),
            ("answers of others that were harmed; zombies; descriptors leaked", "; ".join(map(str, harm))),
        ]
    if ends := result.get("ends"):
        what = f"{ends['trials']} times SIGTERM with 0, 1 and 8 open streams: slowest; streams cut without a word"
        rows.append((what, f"{max(ends['seconds'].values()):.1f} s; {ends['streams cut without a word']}"))
    if leavers := result.get("leavers"):
        what = f"{leavers['clients']} clients that left at a random moment: answers of others harmed; next answer, p99"
        rows.append((what, f"{leavers[STAYED]}; {leavers['then the next answer']['p99 ms']:.0f} ms"))
    if soak := result.get("soak"):
        growth, slower = soak["growth of resident memory"], soak["p99 of the last against the second tenth"]
        what = f"{soak['requests']:,} requests: growth of resident memory, server; worker"
        rows += [
            (what, f"{growth['parent']:+.2%}; {growth['worker']:+.2%}"),
            ("p99 of the last tenth against the second; other work ran on the machine by then", _ratios(slower)),
        ]
    if idle := result.get("soak of an idle machine"):
        what = f"the same of {idle['requests']:,} requests, with nothing beside them"
        rows.append((what, _ratios(idle["p99 of the last against the second tenth"])))
    if leak := result.get("planted_leak"):
        rows.append((f"a planted leak, {leak['requests']:,} requests: caught", "no" if leak["holds"] else "yes"))
    if malformed := result.get("malformed"):
        fives = sum(status.startswith("5") for status in malformed["statuses of raw ones"])
        what = f"{malformed['by schemathesis'] + malformed['raw']:,} malformed requests: 5xx; the worker is the same"
        rows.append((what, f"{fives}; {_yes(malformed['same worker to the end'])}"))
    if pictures := result.get("pictures"):
        what = f"{pictures['pictures']:,} pictures of absurd shapes and damaged files: the worker is the same"
        rows.append((what, _yes(pictures["same worker"])))
    if schemas := result.get("schemas"):
        times = f"{schemas['p50 ms']:.1f} / {schemas['p99 ms']:.1f} / {schemas['slowest ms']:.0f} ms"
        rows.append((f"{schemas['requests']:,} hostile schemas and numbers: p50 / p99 / slowest", times))
    return ("", ""), rows


def llama_server(result: Figures) -> tuple[Row, list[Row]]:
    """The same requests to both."""
    arms = (OURS, LARGE, SMALL)
    questions, crowd, kills, wrong, leaving = (
        result[name] for name in ("questions", "overload", "kills", "malformed", "disconnect")
    )

    def times(found: Figures, digits: int = 0) -> str:
        return f"{found['p50 ms']:.{digits}f} / {found['p99 ms']:.{digits}f}"

    kinds = len(wrong[OURS]["each"])
    rows: list[Row] = [
        ("first question about a picture, ms", *(times(questions[a]["first question"]) for a in arms)),
        ("second question about it, ms", *(times(questions[a]["second question"]) for a in arms)),
        ("overload: answers a second", *(f"{crowd[a]['answers per s']:.1f}" for a in arms)),
        ("turned away, all with Retry-After", *(_turned_away(crowd[a]) for a in arms)),
        ("an answered request, from its first try on, ms", *(times(crowd[a]["from the first try on"]) for a in arms)),
        ("`/health` meanwhile, slowest, ms", *(f"{crowd[a]['GET /health meanwhile']['worst ms']:.0f}" for a in arms)),
        (
            "resident memory before -> after, MB",
            *(f"{crowd[a]['resident MB before']:.0f} -> {crowd[a]['resident MB after']:.0f}" for a in arms),
        ),
        ("a question behind a client that left early, ms", *(_behind(leaving[a]) for a in arms)),
        ("kill -9: the request under way gets", _got(kills[OURS]), "-", _both(_got, kills)),
        ("until questions are answered again, ms", _again(kills[OURS]), "-", _both(_again, kills)),
        (f"{kinds} kinds of malformed requests: 5xx; processes ended", *(_wrong(wrong.get(a)) for a in arms)),
        ("slowest of these, ms", *(f"{wrong[a]['times']['worst ms']:.0f}" if a in wrong else "-" for a in arms)),
        ("a picture at an http URL is fetched; a foreign page may read", *(_fetches(wrong.get(a)) for a in arms)),
    ]  # fmt: skip
    return (
        "p50 / p99 where there are two",
        "FaceInsight",
        "llama-server, SigLIP-B/16",
        "llama-server, ViT-Ti/16",
    ), rows


def live(result: Figures) -> tuple[Row, list[Row]]:
    """A camera that is watched."""
    runs = result["runs"]

    def times(name: str) -> list[str]:
        return [f"{run[name]['p50 ms']:.0f} / {run[name]['p99 ms']:.0f} ms" for run in runs]

    rows: list[Row] = [
        ("frame to boxes, p50 / p99", *times("frame to boxes")),
        ("frame to labels, p50 / p99", *times("frame to labels")),
        ("frames that came; that were watched", *(f"{run['frames']}; {run['watched']}" for run in runs)),
        ("looks", *(str(run["looks"]) for run in runs)),
        ("cores in use", *(f"{run['cores']:.2f}" for run in runs)),
        *(
            (name.replace("track", "person"), *(f"{run[name]:.1f}" for run in runs))
            for name in ("changes of a state, a track and minute", "back to an earlier one, a track and minute")
        ),
    ]
    return ("", *(_people(run["people"]) for run in runs)), rows


def against_photos(result: Figures) -> tuple[Row, list[Row]]:
    """Labels of a video, as they are shown, against those of photos of it."""
    runs = [run["labels against photos"] for run in result["runs"]]
    rows: list[Row] = [("claims of photos", *(f"{run['claims of the photos']:,}" for run in runs))]
    names = ("the same", "in doubt", "the opposite", "two photos a second apart, the same")
    rows += [(name, *(f"{run[name]:.1%}" for run in runs)) for name in names]
    return ("", *(_people(run["people"]) for run in result["runs"])), rows


def kiosk(result: Figures) -> tuple[Row, list[Row]]:
    """The page in a browser beside its server."""
    runs = result["runs"]
    rows: list[Row] = [
        (f"{name}, p50 / p99", *(f"{run[name]['p50 ms']:.0f} / {run[name]['p99 ms']:.0f} ms" for run in runs))
        for name in ("frame to boxes on the page", "frame to labels on the page")
    ]
    rows += [
        (name, *(f"{run[name]:.1f}" for run in runs))
        for name in ("frames a second that came", "frames a second that were searched", "frames a second on the page")
    ]
    cores = [run["cores"] for run in runs]
    rows.append(
        ("cores: server + browser", *(f"{c['server']:.2f} + {c['browser']:.2f} = {c['together']:.2f}" for c in cores))
    )
    memory, leak = result["memory"], result["planted leak"]
    rows.append(
        (
            f"growth of the browser's memory in {memory['minutes']:.0f} minutes",
            f"{memory['growth in percent']:+.1f} %",
            "not measured",
        )
    )
    rows.append(
        (
            f"the same with a planted leak, {leak['minutes']:.0f} minutes",
            f"{leak['growth in percent']:+.1f} %",
            "not measured",
        )
    )
    return ("", *(_people(run["people"]) for run in runs)), rows


def night(result: Figures) -> tuple[Row, list[Row]]:
    """Visits to a kiosk, one after another."""
    memory = result["MB of the second tenth and the last"]
    names = {"parent": "server", "worker": "worker", "browser": "browser"}
    rows: list[Row] = [
        ("visits, each with three questions; minutes", f"{result['visits']}; {result['seconds'] / 60:.0f}"),
        ("questions answered", str(result["questions answered"])),
        ("requests that were refused or failed", str(sum(result["requests that were refused or failed"].values()))),
        ("workers that were replaced", f"{result['worker restarts']:.0f}"),
        *(
            (f"memory of the {names[part]}, second tenth -> last", f"{first:.0f} -> {last:.0f} MB")
            for part, (first, last) in memory.items()
        ),
    ]
    return ("", ""), rows


def _people(count: int) -> str:
    return f"{count} {'person' if count == 1 else 'people'}"


def broker(result: Figures) -> tuple[Row, list[Row]]:
    """A broker of MQTT that dies, and none at all."""
    killed, offline = result["killed"], result["without a broker"]
    seconds, order = killed["seconds"], _yes(offline["the newest, in order"])
    first, last = killed["server's resident MB before and after"]
    rows: list[Row] = [
        (
            f"{killed['kills']} times a broker was killed, and started 0 to 3 s later: until a subscriber has "
            "`online`, discovery and state, p50 / slowest",
            f"{seconds['p50']:.1f} / {seconds['max']:.1f} s",
        ),
        ("resident memory of the server before and after", f"{first:.0f} -> {last:.0f} MB"),
        (
            f"{offline['windows']:,} windows of 2 kB without a broker: held; dropped",
            f"{offline['held kB']} kB; {offline['dropped']:.0f}",
        ),
        ("arrived once there was one; the newest, in order", f"{offline['arrived']}; {order}"),
    ]
    return ("", ""), rows


#: Classes of the audience's figures that the docs show beside the worst ones.
CLASSES = (
    *("Eyeglasses", "Smiling", "Wearing_Hat", "Male", "Age_0_2+Age_3_9", "Age_10_19", "Age_20_29+Age_30_39"),
    *("Age_40_49+Age_50_59", "Age_60_69+Age_70"),
)


def audience(result: Figures) -> tuple[Row, list[Row]]:
    """Do the intervals of crowds hold the truth? The worst three classes, and some that are asked for."""
    ways, classes = ("corrected", "states", "likeliest"), result["classes"]
    rows: list[Row] = [(f"**all {len(classes)}**", *(f"**{result['overall'][way]:.1%}**" for way in ways), "")]
    for name in dict.fromkeys((*list(classes)[:3], *CLASSES)):
        found = classes[name]
        label = ", ".join(f"`{part}`" for part in name.split("+"))
        rows.append((label, *(f"{found[way]:.1%}" for way in ways), f"{found['width']:.0%}"))
    head = "", "expected number", 'counted "yes"', "counted likeliest", "width of the first, of the people"
    return head, rows


def audience_sets(result: Figures) -> tuple[Row, list[Row]]:
    """Crowds of one set, with corrections of all sets and of the others alone."""
    found = result["crowds of one set, corrected by"]
    rows: list[Row] = [
        (f"{question}, people of {name}", f"{row['all sets']:.1%}", f"{row['the other sets']:.1%}")
        for question, sets in found.items()
        for name, row in sets.items()
    ]
    return ("", "measured on all sets", "on the others alone"), rows


def better_there(result: Figures) -> str:
    """What the other one can do and ours cannot."""
    return "\n".join(f"- {entry['what']}" for entry in result["better_there"])


def _ratios(found: Figures) -> str:
    return ", ".join(f"{kind} {x:.2f}" for kind, x in found.items())


def _yes(value: bool) -> str:
    return "yes" if value else "**no**"


def _turned_away(found: Figures) -> str:
    refused, named = found["turned away"], found["of these with Retry-After"]
    return str(refused) if refused == named else f"{refused} ({named} with)"


def _behind(found: Figures) -> str:
    behind = found["a question behind"]
    return f"{behind['one that left after 20%']['p50 ms']:.0f} (nobody before: {behind['nobody']['p50 ms']:.0f})"


def _got(found: Figures) -> str:
    return ", ".join(found["the request under way got"])


def _both(say: Callable[[Figures], str], kills: Figures) -> str:
    """llama-server by itself, and in router mode."""
    return f"{say(kills[SMALL])}; router: {say(kills[ROUTER])}"


def _again(found: Figures) -> str:
    times = found["until it was answered"]
    return f"{times['p50 ms']:.0f}" if times["N"] else "not by itself"


def _wrong(found: Figures | None) -> str:
    if found is None:
        return "-"
    ended: Sequence[str] = found["the process ended, or answered no more, after"]
    return f"{found['5xx'] // found['rounds']}; {len(set(ended))}"


def _fetches(found: Figures | None) -> str:
    if found is None:
        return "-"
    foreign = found["Access-Control-Allow-Origin sent to another site"]
    return f"{'yes' if found['fetched from an http URL'] else 'no'}; {'yes' if foreign else 'no'}"

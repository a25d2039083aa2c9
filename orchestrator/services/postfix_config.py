"""Adapts a user's own main.cf and master.cf to a bed: overrides parameters and listening addresses, finds mail detours.

Both files have the same format (postconf(5), master(5)): a line that begins with white space continues the previous
line; empty lines and comment lines (``#``) are ignored.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from orchestrator.bed.model import MAX_DOMAINS, Families
from orchestrator.errors import InvalidInput
from orchestrator.services import Override

MAIN, MASTER = "/etc/postfix/main.cf", "/etc/postfix/master.cf"
PACKAGED = re.compile(
    r"/etc/postfix/((?:dynamicmaps\.cf|postfix-files)(?:\.d/.*)?|postfix-script|post-install|makedefs\.out|.*\.proto)\Z"
)
"""Files of the Postfix package in a user's copy of /etc/postfix; they may be of another version than the image's."""

_MEASURED = {
    "maillog_file": ("/dev/stdout", "the bed reads the log from there"),
    "delay_logging_resolution_limit": ("6", "the bed's histograms need delays to the microsecond"),
}
"""Parameters with one value in every bed: name -> value, reason."""
_IMAGE = "the image's own"
_ELSEWHERE = {
    "maillog_file_prefixes": ("/var, /dev/stdout", "the log goes to /dev/stdout"),
    "syslog_name": ("postfix", "the bed reads the log by this name"),
    "info_log_address_format": ("external", "the bed reads quoted addresses in the log"),
    "queue_directory": ("/var/spool/postfix", "the bed counts the queue there"),
    "command_directory": ("/usr/sbin", _IMAGE),
    "daemon_directory": ("/usr/lib/postfix/sbin", _IMAGE),
    "data_directory": ("/var/lib/postfix", _IMAGE),
    "shlib_directory": ("/usr/lib/postfix", _IMAGE),
    "meta_directory": ("/etc/postfix", _IMAGE),
    "config_directory": ("/etc/postfix", _IMAGE),
    "mail_owner": ("postfix", _IMAGE),
    "setgid_group": ("postdrop", _IMAGE),
    "multi_instance_enable": ("no", "a node runs one instance"),
    "multi_instance_directories": ("", "a node runs one instance"),
    "multi_instance_wrapper": ("", "a node runs one instance"),
    "smtp_bind_address": ("", "mail leaves from the node's addresses in the lab"),
    "smtp_bind_address6": ("", "mail leaves from the node's addresses in the lab"),
}
"""Parameters that must be unset or have this value: name -> value (the image's default, or empty), reason."""
_DETOUR = re.compile(
    r"(?:.*relayhost(?:_maps)?|.*transport(?:_maps)?|content_filter|smtpd_proxy_filter|.*_bcc(?:_maps)?|.*fallback_relay"
    r"|.*_milters|(?:.*_)?(?:header|body)_checks|virtual_.*_(?:maps|domains)|.*canonical_maps|relocated_maps"
    r"|mydestination|luser_relay|disable_dns_lookups|smtp_host_lookup|smtp_dns_support_level)\Z"
)
_STRAIGHT = re.compile(r"(?:smtp|relay|error(?::.*)?|)\Z", re.DOTALL)
"""Values with which a ``_DETOUR`` parameter causes no detour: mail still goes to the domain's MX."""
_STRAIGHT_OF = {
    "disable_dns_lookups": {"no"},
    "smtp_host_lookup": {"dns", ""},
    "smtp_dns_support_level": {"enabled", "dnssec", ""},
}
"""Values that cause no detour, for each parameter about DNS: without DNS, Postfix looks up no MX records."""

_ACTIONS = r"(?:FILTER|REDIRECT|BCC|check_policy_service)\b"
_ENTRY = re.compile(r"(?:!?([^\w\s])(?:\\.|(?!\1)[^\\])*\1\S*|\S+)\s+(\S.*)")
"""An entry of access(5) or header_checks(5): first a key, quoted key or /pattern/; then an action or restrictions."""
_ACTION = re.compile(r"(?:(?=\w*_)\w+[\s,]+)*((?:FILTER|REDIRECT|BCC)[\s,]+\S+)", re.IGNORECASE)
"""The action of an entry; restrictions without arguments may stand before the action."""
_TEXT = re.compile(
    r"(?:REJECT|DEFER|DEFER_IF_PERMIT|DEFER_IF_REJECT|DISCARD|HOLD|INFO|PREPEND|REPLACE|STRIP|WARN|[45][\d.]+)\s",
    re.IGNORECASE,
)
"""An action whose argument is text up to the end of the entry."""
MOST_ACTIONS = 20
"""Maximum number of lookup-table actions that the plan lists."""
_BRACES = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_INLINE = re.compile(rf"(?:static|inline|regexp|pcre|cidr):{_BRACES}")
_REMOTE = re.compile(
    rf"check_policy_service[\s,]+(?:{_BRACES}|[^\s,]+)|check_\w{{1,40}}_access[\s,]+(?:\{{\s*)?"
    r"(?!(?:proxy:)?(?:hash|btree|cdb|lmdb|texthash|regexp|pcre|cidr|static|inline):)\w+:[^\s,]+",
    re.IGNORECASE,
)
"""A query in a restriction whose answer cannot be known here: to a policy service, or a table without a text file."""
_REFERENCE = re.compile(r"\$(?:(\w+)|\{(\w+)\}|\((\w+)\))")
_MOST_DEPTH = 10
_MOST_EXPANDED = 16_384
"""Maximum characters of one value after its references are expanded; a longer value is searched unexpanded."""

_FIELDS = re.compile(r"(\S+\s+\S+\s+\S+\s+\S+\s+)([yn-])(?=\s)")
_OPTION = re.compile(rf"(?<!\S)-o\s*(?:\{{\s*([\w.-]+)\s*=\s*((?:[^{{}}]|{_BRACES})*?)\s*\}}|([\w.-]+)=(\S*))")
_SYSLOG_NAME = re.compile(r"(-o\s*(?:\{\s*)?syslog_name\s*=\s*)(?!postfix(?:[/\s}]|\Z))([^\s}]+)")
_OPTIONS = {**_MEASURED, **_ELSEWHERE, "inet_interfaces": ("all", "the node's addresses in the bed")}
"""Parameters that ``-o`` options in master.cf must not override; ``syslog_name`` is an exception."""
_ADDRESSES = frozenset({"inet_interfaces", "smtp_bind_address", "smtp_bind_address6"})
_INET = re.compile(r"(?:(\[[^\]\s]*\]|[^\s:]*):)?([^\s:]+)(?=\s+inet\s)")
_LOOPBACK = re.compile(r"127\.[\d.]+\Z|localhost\Z|loopback-only\Z|::1\Z")
_EVERYWHERE = {False: "0.0.0.0", True: "::"}
"""Wildcard address of a family; key: whether the family is IPv6."""
_WILDCARDS = ("", *_EVERYWHERE.values())
_PORTS = {"smtp": "25", "smtps": "465", "submissions": "465", "submission": "587"}
POSTLOG = "postlog   unix-dgram n  -       n       -       1       postlogd"


def parameters(text: str) -> dict[str, str]:
    """Return the parameters of a main.cf. If a parameter is repeated, its last value counts, as in Postfix."""
    values: dict[str, str] = {}
    for lines in _logical(text.splitlines()):
        name, equals, value = " ".join(line.strip() for _, line in lines).partition("=")
        if equals:
            values[name.strip()] = value.strip()
    return values


def without(text: str, names: frozenset[str]) -> str:
    """Return the text with the lines of these parameters commented out."""
    lines = text.splitlines()
    for group in _logical(lines):
        if group[0][1].partition("=")[0].strip() in names:
            for number, line in group:
                lines[number] = f"#testbed# {line}"
    return "".join(f"{line}\n" for line in lines)


def needed(given: Mapping[str, str], place: Mapping[str, str]) -> tuple[dict[str, str | None], list[Override]]:
    """Return the parameters that the bed overrides, and the changes. Value ``None``: the parameter is left out.

    ``place``: the address parameters of this node, with their values.
    """
    values: dict[str, str | None] = {}
    changes = []

    def put(name: str, new: str | None, reason: str) -> None:
        values[name] = new
        changes.append(Override(setting=name, old=given.get(name), new=new, reason=reason))

    for name, (value, reason) in _MEASURED.items():
        if given.get(name) != value:
            put(name, value, reason)
    for name, (default, reason) in _ELSEWHERE.items():
        value = place.get(name, default)
        if given.get(name, value) != value:
            put(name, value or None, reason)
    if given.get("inet_interfaces", "all") not in {"all", place["inet_interfaces"]}:
        put("inet_interfaces", place["inet_interfaces"], "the node's addresses in the bed")
    if given.get("inet_protocols") != (families := place.get("inet_protocols", given.get("inet_protocols"))):
        put("inet_protocols", families, "the families of the bed")
    return values, changes


def detours(given: Mapping[str, str], main: Mapping[str, str] | None = None) -> list[str]:
    """Return the parameters, and queries in parameters, that can route mail to another host than its domain's MX.

    ``main``: further parameters of main.cf; values may refer to these parameters and to ``given``.
    """
    away = []
    known = {**(main or {}), **given}
    for name, value in given.items():
        expanded = _expanded(value, known)
        if not _DETOUR.match(name):
            away += [f"{name} = {query}" for query in _queries(expanded)]
        elif not (expanded.lower() in _STRAIGHT_OF[name] if name in _STRAIGHT_OF else _STRAIGHT.match(expanded)):
            away.append(f"{name} = {value}")
    return away


def _expanded(value: str, known: Mapping[str, str]) -> str:
    """Replace ``$name``, ``${name}`` and ``$(name)`` by the parameter's value (postconf(5)); unknown names remain."""

    def parameter(reference: re.Match[str]) -> str:
        return known.get(reference[reference.lastindex or 0], reference[0])

    for _ in range(_MOST_DEPTH):
        if sum(len(parameter(reference)) for reference in _REFERENCE.finditer(value)) not in range(1, _MOST_EXPANDED):
            break
        value = _REFERENCE.sub(parameter, value)
    return value


def _queries(value: str) -> list[str]:
    """Return the inline tables in a value that contain one of ``_ACTIONS``, and the queries that match ``_REMOTE``."""
    tables = [table[0] for table in _INLINE.finditer(value)]
    return [table for table in tables if re.search(_ACTIONS, table, re.IGNORECASE)] + _REMOTE.findall(value)


def table_detours(files: Mapping[str, str]) -> list[str]:
    """Return the actions of lookup tables that can cause detours (access(5), header_checks(5))."""
    actions = {
        f"{path}: {' '.join(action.split())}": None
        for path, text in files.items()
        for entry in _logical(text.splitlines())
        for action in _actions(" ".join(line.strip() for _, line in entry))
    }
    further = len(actions) - MOST_ACTIONS
    return list(actions)[:MOST_ACTIONS] + ([f"{further} more actions of lookup tables"] if further > 0 else [])


def _actions(line: str) -> list[str]:
    """Return the actions and queries in one entry that can cause detours."""
    entry = _ENTRY.match(line)
    if not entry or _TEXT.match(entry[2]):
        return []
    action = _ACTION.match(entry[2])
    return ([action[1]] if action else []) + _queries(entry[2])


def master(text: str, own: Sequence[str], main: Mapping[str, str]) -> tuple[str, list[Override], list[str]]:
    """Adapt a master.cf to a bed; return its new text, the changes, and the detours in ``-o`` options.

    No service runs in a chroot: the node has no second copy of /etc and of the libraries. ``-`` in the chroot column
    becomes ``n``; this is no reported change, because ``-`` means ``n`` since Postfix 3.0 (master(5)), except with a
    compatibility_level of 0. ``own``: the node's addresses in the bed's families, each family's service address first.
    ``main``: the parameters of main.cf, before the bed's changes.

    Raises:
        InvalidInput: more services share a port than the node has addresses.
    """
    lines = text.splitlines()
    listening = _listening(lines, own, main.get("inet_interfaces", "all"))
    present = {*own}
    changes: list[Override] = []
    away: list[str] = []
    chrooted: list[str] = []
    names: set[str] = set()
    for group in _logical(lines):
        entry = "/".join(group[0][1].split()[:2])
        names.add(entry)
        number = group[0][0]
        changes += _local(lines, group, entry, present, listening.get(number))
        head = lines[number]
        if (match := _FIELDS.match(head)) and match[2] != "n":
            lines[number] = f"{match[1]}n{head[match.end() :]}"
            chrooted += [entry] if match[2] == "y" else []
        for number, _ in group:
            if other := _SYSLOG_NAME.search(lines[number]):
                lines[number] = _SYSLOG_NAME.sub(r"\1postfix/\2", lines[number])
                reason = "the bed reads the log by this name"
                setting = f"{MASTER} {entry} syslog_name"
                changes.append(Override(setting=setting, old=other[2], new=f"postfix/{other[2]}", reason=reason))
        options = {a or c: b or d for a, b, c, d in _OPTION.findall(" ".join(line for _, line in group))}
        away += [f"{MASTER} {entry}: {detour}" for detour in detours(options, main)]
    if chrooted:
        setting = f"{MASTER} chroot of {len(chrooted)} services, {', '.join(chrooted[:2])}, ..."
        changes.append(Override(setting=setting, old="y", new="n", reason="a node has a root of its own"))
    if "postlog/unix-dgram" not in names:
        lines.append(POSTLOG)
        reason = "postlogd writes the log to /dev/stdout"
        changes.append(Override(setting=f"{MASTER} postlog", old=None, new="postlogd", reason=reason))
    return "".join(f"{line}\n" for line in lines), changes, away


def addresses(text: str, families: Families) -> int:
    """Return the number of addresses that a node needs so that services of a master.cf can share a port."""
    most = 1
    for listeners in _by_port(text.splitlines()).values():
        hosts = [host for _, host, _, _ in listeners if not _LOOPBACK.match(host)]
        named = Counter(":" in host for host in hosts if host not in _WILDCARDS)
        reserved = {six: not {"", wildcard}.isdisjoint(hosts) for six, wildcard in _EVERYWHERE.items()}
        if families is Families.BOTH:
            most = max(most, *(named[six] + reserved[six] for six in _EVERYWHERE))
        else:
            most = max(most, named.total() + reserved[families.has_v6])
    return min(most, MAX_DOMAINS)


def _by_port(lines: list[str]) -> dict[str, list[tuple[int, str, str, str]]]:
    """Return port -> its inet services: line number, host, port as written, and name of each service."""
    ports: dict[str, list[tuple[int, str, str, str]]] = {}
    for group in _logical(lines):
        if match := _INET.match(group[0][1]):
            listener = (group[0][0], (match[1] or "").strip("[]"), match[2], match[0])
            ports.setdefault(_PORTS.get(match[2], match[2]), []).append(listener)
    return ports


def _listening(lines: list[str], own: Sequence[str], interfaces: str) -> dict[int, str]:
    """Return line number -> new service name, for each inet service whose address the node does not have.

    A service with a port of its own gets all addresses of the node; a service that shares its port gets one address.
    A service with the wildcard address or no address (inet_interfaces) keeps the service addresses and gets the mail.
    But if the user's ``interfaces`` are loopback addresses, a service without an address listens on these.
    """
    names = {}
    present = {*own}
    own_of = {six: [address for address in own if (":" in address) == six] for six in _EVERYWHERE}
    local = all(_LOOPBACK.match(word.strip("[]")) for word in interfaces.replace(",", " ").split())
    for listeners in _by_port(lines).values():
        elsewhere = [
            (number, host, port)
            for number, host, port, _ in listeners
            if not (host in present or host in _WILDCARDS or _LOOPBACK.match(host))
        ]
        if len(listeners) == 1:
            names.update({number: port for number, _, port in elsewhere})
            continue
        hosts = {host for _, host, _, _ in listeners}
        bare = "" in hosts and not local
        reserved = {six: int(bare or wildcard in hosts) for six, wildcard in _EVERYWHERE.items()}
        free = {six: (a for a in own_of[six][reserved[six] :] if a not in hosts) for six in own_of}
        for number, host, port in elsewhere:
            six = ":" in host if own_of[":" in host] else ":" not in host
            if not (address := next(free[six], None)):
                raise InvalidInput(
                    f"an address of the node for each service of port {port} in {MASTER}",
                    ", ".join(service for *_, service in listeners),
                    "take services out, or give the node in the bed file more `addresses`",
                )
            names[number] = _at(address, port)
        if local and any(host and not _LOOPBACK.match(host) for host in hosts):
            loopback = "127.0.0.1" if own_of[False] else "::1"
            names.update({number: _at(loopback, port) for number, host, port, _ in listeners if not host})
    return names


def _at(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _local(
    lines: list[str], group: list[tuple[int, str]], entry: str, own: AbstractSet[str], listening: str | None
) -> list[Override]:
    """Replace the address and the options of one service in ``lines`` if they do not suit the bed."""
    changes = []

    def judged(option: re.Match[str]) -> str:
        name, value = option[1] or option[3], (option[2] if option[1] else option[4])
        needed, reason = _OPTIONS.get(name, (value, ""))
        local = name in _ADDRESSES and set(value.replace(",", " ").split()) <= own
        if name == "syslog_name" or value == needed or local:
            return option[0]
        changes.append(Override(setting=f"{MASTER} {entry} {name}", old=value, new=None, reason=f"main.cf's: {reason}"))
        return "\n" * option[0].count("\n")

    numbers = [number for number, _ in group]
    text = _OPTION.sub(judged, "\n".join(line for _, line in group))
    if listening:
        old = text.split(maxsplit=1)[0]
        text = listening + text[len(old) :]
        reason = "the node's addresses in the bed"
        changes.append(Override(setting=f"{MASTER} {entry}", old=old, new=listening, reason=reason))
    for number, line in zip(numbers, text.split("\n"), strict=True):
        lines[number] = line
    return changes


def _logical(lines: list[str]) -> Iterator[list[tuple[int, str]]]:
    """Yield each logical line as a list of its physical lines (number and text), without comments."""
    group: list[tuple[int, str]] = []
    for number, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if group and line[0].isspace():
            group.append((number, line))
            continue
        if group:
            yield group
        group = [(number, line)]
    if group:
        yield group

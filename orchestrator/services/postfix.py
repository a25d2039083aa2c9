"""Postfix, as a relay to thousands of domains: in over SMTP, out by the bed's MX records, nothing kept locally."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field

from orchestrator.addressing import twin
from orchestrator.errors import InvalidInput
from orchestrator.model import Strict
from orchestrator.services import Queue, RelayLog, Rendered, Role, Site, postfix_log
from orchestrator.wiring import CONTROL

_OWN = {
    "compatibility_level": ("3.6", "the newest defaults; 3.5 takes it for its own newest"),
    "maillog_file": ("/dev/stdout", "the engine keeps the log; see postlog in master.cf"),
    "mydestination": ("", "nothing is delivered here"),
    "local_recipient_maps": ("", "nothing is delivered here"),
    "alias_maps": ("", "nothing is delivered here"),
    "alias_database": ("", "nothing is delivered here"),
    "local_transport": ("error:5.1.1 no mail is delivered here", "nothing is delivered here"),
    "smtpd_relay_restrictions": ("permit_mynetworks, reject", "the bed relays for itself only"),
    "smtp_host_lookup": ("dns", "the bed's DNS and no hosts file"),
    "biff": ("no", "there are no users to notify"),
    "smtputf8_enable": ("no", "the bed's names are ASCII"),
    "smtp_tls_security_level": ("none", "a plain bed: TLS would be measured, too"),
    "smtpd_tls_security_level": ("none", "a plain bed: TLS would be measured, too"),
    "delay_logging_resolution_limit": ("6", "delays=a/b/c/d to the microsecond, for the histograms"),
    "default_process_limit": ("500", "the default of 100 is reached long before the machine's end"),
    "smtpd_client_connection_count_limit": ("0", "one load generator is one client"),
    "qmgr_message_active_limit": ("100000", "20000 is 40 s of mail at 500 a second; the rest would wait on disk"),
    "qmgr_message_recipient_limit": ("100000", "as the active limit: one recipient for each message"),
    "default_destination_concurrency_limit": ("50", "20 binds a bed with few domains"),
    "default_destination_concurrency_failed_cohort_limit": ("0", "one failure must not mark a domain dead for 300 s"),
    "in_flow_delay": (
        "0",
        "1 s holds mail back when more comes in than goes out: let it be seen",
    ),
    "minimal_backoff_time": ("10s", "300 s outlasts a run"),
    "maximal_backoff_time": ("60s", "4000 s outlasts a run"),
    "queue_run_delay": ("10s", "as the shortest backoff"),
    "message_size_limit": ("52428800", "what the sink announces"),
    "mailbox_size_limit": ("0", "no mailboxes"),
}
"""Settings of a relay to thousands of domains: name -> value, reason. A bed file may override them."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,100}\Z")
_VALUE = re.compile(r"(?! )[A-Za-z0-9 .,_+=@!<>()%*~^-]*\Z")
"""Words only: without ':' and '/' nobody names a lookup table, a file, a socket or another server's port."""
_FORBIDDEN = re.compile(
    r"command|_checks|_program|mail_owner|setgid|default_privs|_directory|_path$|_maps|^multi_instance|environment"
    r"|^maillog|^syslog|relayhost|_relay$|transport|content_filter|_bcc|^inet_interfaces|^mynetworks|bind_address"
    r"|default_database"
)
"""What could run a program, read a file, or lead mail another way than the one that is measured."""


def _overrides(settings: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Check what can be checked without Postfix; it knows itself which parameters it has: ``_START``."""
    for name, value in settings.items():
        if not _NAME.match(name):
            raise ValueError(f"{name!r} is not the name of a main.cf parameter")
        if _FORBIDDEN.search(name):
            raise ValueError(f"{name} is not for a bed file: it runs programs, reads files or moves mail elsewhere")
        if not _VALUE.match(str(value)):
            raise ValueError(f"{name}: a value of words and numbers, without ':', '/', '$', quotes and braces")
    return settings


_START = """\
unknown=$(postconf -n 2>&1 >/dev/null)
if [ -n "$unknown" ]; then echo "$unknown"; exit 78; fi
trap '' HUP INT QUIT TERM
exec gather postfix start-fg
"""
"""Postfix only warns of a parameter that it does not know: a slip of the pen would measure something else. Its start
script waits for master(8), and is not to end before it: it ignores the signals, which master handles whatever it finds.
"""

_QUEUE = ("deferred", "incoming", "active", "deferred")
"""Where mail waits, in the order in which it moves on: what moves while they are listed is seen once at least."""


class Settings(Strict):
    """What a bed file may say of Postfix."""

    main_cf: Annotated[dict[str, str | int | bool], AfterValidator(_overrides)] = Field(default_factory=dict)
    """Parameters of main.cf, instead of ours and of Postfix's own (postconf(5))."""


_QUICK_START = "/var/spool/postfix/quick-start"
"""Tells Postfix's start script that the queue's folders have been checked: they were, when the image was built."""


class Postfix:
    """The service."""

    name = "postfix"
    role = Role.RELAY
    image = "postfix"
    settings = Settings
    capabilities = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")
    takes_mail = False
    ready = re.compile(r"postfix/master\[\d+\]: daemon started ")
    version = ("postconf", "-h", "mail_version")
    queue = Queue(
        command=("find", *(f"/var/spool/postfix/{name}" for name in _QUEUE), "-type", "f", "-printf", "%f\\n"),
        length=lambda printed: len(set(printed.split())),  # a message keeps its file's name
    )

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a relay for the bed."""
        return Rendered(
            command=("sh", "-euc", _START),
            files={
                "/etc/postfix/main.cf": _main_cf(site).encode(),
                "/etc/postfix/master.cf": _master_cf(site).encode(),
                _QUICK_START: b"",
            },
            publish=("25/tcp",),
            fds=4096,
            memory_mb=1024,
            peers=len(site.nodes) - 1,
        )

    def read_log(self, lines: Iterable[tuple[float, str]]) -> RelayLog:
        """Read what its log says of the mail that went through."""
        return postfix_log.read(lines)


_PROTOCOLS = {"all": {4, 6}, "ipv4": {4}, "ipv6": {6}}
"""inet_protocols (postconf(5)) -> IP versions."""


def _protocols(site: Site[Settings]) -> set[int]:
    """Return the IP versions that it speaks: those of the bed, unless main.cf says otherwise.

    Raises:
        InvalidInput: the rest of the bed would talk past it.
    """
    families = site.families
    given = str(site.settings.main_cf.get("inet_protocols", "all" if families.has_v6 else "ipv4"))
    words = given.replace(",", " ").split()
    if not words or not set(words) <= set(_PROTOCOLS):
        raise InvalidInput(f"inet_protocols of node {site.node}: all, ipv4 or ipv6", repr(given), "correct it")
    spoken = set().union(*(_PROTOCOLS[word] for word in words))
    needed = 4 if families.has_v4 else 6
    if needed not in spoken:
        raise InvalidInput(
            f"inet_protocols of node {site.node} with IPv{needed}: the bed has `families: {families}`",
            repr(given),
            f"leave it out, and give the bed `families: v{10 - needed}`",
        )
    return spoken if families.has_v6 else {4}


def _main_cf(site: Site[Settings]) -> str:
    spoken = _protocols(site)
    own = {4: str(site.v4), 6: str(twin(site.v4))}
    networks = {4: str(site.lab), 6: f"[{site.lab6.network_address}]/{site.lab6.prefixlen}"}
    place = {
        "inet_protocols": (
            "all" if spoken == {4, 6} else f"ipv{min(spoken)}",
            "the families of the bed" if site.families.has_v4 else "IPv4 for the published port only; see master.cf",
        ),
        "myhostname": (f"{site.node}.nodes.test", "as the bed's DNS has it"),
        "mydomain": ("nodes.test", "as the bed's DNS has it"),
        "inet_interfaces": (
            ", ".join(own[version] for version in sorted(spoken)),
            "its service address; published ports lead there",
        ),
        **{
            name: (own[version], "mail leaves over the lab")
            for version, name in ((4, "smtp_bind_address"), (6, "smtp_bind_address6"))
            if version in spoken
        },
        # The host comes in from the control network's gateway; the engine chooses that network when it makes it.
        "mynetworks": (
            ", ".join([*(networks[version] for version in sorted(spoken)), CONTROL]),
            "the bed, and the host through its published port",
        ),
    }
    ours = {**_OWN, **place}
    said = {True: "yes", False: "no"}
    given = {n: said[v] if isinstance(v, bool) else str(v) for n, v in site.settings.main_cf.items()}
    lines = [f"# {reason}\n{name} = {value}" for name, (value, reason) in ours.items() if name not in given]
    lines += [f"# from the bed file\n{name} = {value}" for name, value in given.items()]
    return "\n".join(lines) + "\n"


_MASTER_CF = """\
# service   type  private unpriv chroot wakeup maxproc command. No chroot: its copy of resolv.conf would be an old one.
smtp        inet  n       -      n      -      -       smtpd
pickup      unix  n       -      n      60     1       pickup
cleanup     unix  n       -      n      -      0       cleanup
qmgr        unix  n       -      n      300    1       qmgr
tlsmgr      unix  -       -      n      1000?  1       tlsmgr
rewrite     unix  -       -      n      -      -       trivial-rewrite
bounce      unix  -       -      n      -      0       bounce
defer       unix  -       -      n      -      0       bounce
trace       unix  -       -      n      -      0       bounce
verify      unix  -       -      n      -      1       verify
flush       unix  n       -      n      1000?  0       flush
proxymap    unix  -       -      n      -      -       proxymap
proxywrite  unix  -       -      n      -      1       proxymap
smtp        unix  -       -      n      -      -       smtp
relay       unix  -       -      n      -      -       smtp
showq       unix  n       -      n      -      -       showq
error       unix  -       -      n      -      -       error
retry       unix  -       -      n      -      -       error
discard     unix  -       -      n      -      -       discard
anvil       unix  -       -      n      -      1       anvil
scache      unix  -       -      n      -      1       scache
postlog     unix-dgram n  -      n      -      1       postlogd
"""


def _master_cf(site: Site[Settings]) -> str:
    """Return master.cf; in a bed without IPv4 the client looks for no IPv4 address of a mail host."""
    client = "smtp"
    if not site.families.has_v4:
        client += f" -o inet_protocols=ipv6 -o inet_interfaces={twin(site.v4)}"
    return re.sub(r"^((?:smtp|relay) +unix .* )smtp$", rf"\g<1>{client}", _MASTER_CF, flags=re.MULTILINE)


SERVICE = Postfix()

"""Postfix as a relay to thousands of domains: accepts mail over SMTP, sends it to MX hosts, delivers none locally."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from orchestrator.agents.inbox import relay_log
from orchestrator.bed.addressing import twin
from orchestrator.bed.model import Families, Strict
from orchestrator.bed.wiring import CERTIFICATE, CONTROL, DIRECTORY
from orchestrator.errors import InvalidInput
from orchestrator.services import (
    Listing,
    Override,
    Queue,
    Queued,
    RelayLog,
    Rendered,
    Role,
    Service,
    Site,
    postfix_config,
    postfix_log,
)
from orchestrator.services.postfix_config import MAIN, MASTER

_OWN = {
    "compatibility_level": ("3.6", "the newest defaults; 3.5 treats it as its own newest"),
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
    "default_process_limit": ("500", "the default of 100 limits the relay before the CPUs do"),
    "smtpd_client_connection_count_limit": ("0", "one load generator is one client"),
    "qmgr_message_active_limit": ("100000", "20000 is 40 s of mail at 500 a second; further mail would wait on disk"),
    "qmgr_message_recipient_limit": ("100000", "as the active limit: one recipient for each message"),
    "default_destination_concurrency_limit": ("50", "20 limits the rate of a bed with few domains"),
    "default_destination_concurrency_failed_cohort_limit": ("0", "one failure must not mark a domain dead for 300 s"),
    "in_flow_delay": ("0", "1 s delays mail when input exceeds output, and hides the excess"),
    "minimal_backoff_time": ("10s", "300 s outlasts a run"),
    "maximal_backoff_time": ("60s", "4000 s outlasts a run"),
    "queue_run_delay": ("10s", "as the shortest backoff"),
    "message_size_limit": ("52428800", "the sink's SIZE"),
    "mailbox_size_limit": ("0", "no mailboxes"),
}
"""Settings of a relay to thousands of domains: name -> value, reason. A bed file can override these settings."""

_SUBMISSION = {
    "smtpd_tls_chain_files": (CERTIFICATE, "of the bed's authority"),
    "smtpd_tls_security_level": ("may", "STARTTLS on port 25"),
    "smtpd_discard_ehlo_keyword_address_maps": (
        "cidr:/etc/postfix/sasl/discard",
        "no STARTTLS without a certificate (Compose)",
    ),
    "smtpd_tls_received_header": ("yes", "a test reads in the message that TLS was used"),
    "smtpd_sasl_authenticated_header": ("yes", "a test reads in the message who was authenticated"),
    "smtpd_sasl_local_domain": ("$myhostname", "the realm of every user; a name with @ stays whole"),
}
"""Settings of a relay that offers submission: name -> value, reason."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}\Z")
_MOST_VALUE = 65_536


def _overrides(settings: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Check that names and values fit the format of main.cf. ``_CHECK`` checks the names with postconf at the start.

    The effect of a value is not checked: the firewall of ``wiring`` keeps mail in the bed, and the plan lists detours.
    """
    for name, value in settings.items():
        if not _NAME.match(name):
            raise ValueError(f"{name!r} is not the name of a main.cf parameter")
        if not str(value).isprintable() or len(str(value)) > _MOST_VALUE:
            raise ValueError(f"{name}: a value of one line of printable characters, at most {_MOST_VALUE:,}")
    return settings


_CHECK = """\
warnings=$(postconf -n 2>&1 >/dev/null) || { echo "$warnings"; exit 78; }
[ -z "$warnings" ] || echo "$warnings"
if echo "$warnings" | grep -Eq -e "$1"; then exit 78; fi
"""
"""Stops the node if the bed file has an unknown parameter. Postfix only warns, and the run would measure a relay
without the misspelt setting. An unknown parameter of a user's own main.cf stays a warning, as on the user's server."""
_COMPILE = r"""
set -f
parameters=$({ postconf -nx; postconf -Px; } 2>/dev/null)
data=$(postconf -xh data_directory 2>/dev/null)
aliases=" $(postconf -xh alias_maps alias_database 2>/dev/null | tr ',\n' '  ') "
kinds='hash|btree|cdb|lmdb|texthash|regexp|pcre|cidr|sqlite'
for map in $(echo "$parameters" | grep -Eo "(^|[^a-z])($kinds):/[^][ ,;{}\"]+" | sed 's/^[^a-z]//' | sort -u); do
    kind=${map%%:*} file=${map#*:} tool=postmap
    case $aliases in *" $map "*) tool=postalias;; esac
    case $kind in
        hash|btree) compiled=db;;
        cdb|lmdb) compiled=$kind;;
        *) compiled= ;;
    esac
    if [ ! -e "$file" ]; then
        case $file in "$data"/*) continue;; esac
        if [ -n "$compiled" ] && [ -e "$file.$compiled" ]; then continue; fi
        echo "the configuration names $map, but the node has no file $file: give it, or remove the parameter"
        exit 78
    fi
    [ -z "$compiled" ] || $tool "$map" || exit 78
done
set +f
"""
"""Compiles every lookup table of the configuration that has a source file. Tables in data_directory need no source
file: they are caches made by Postfix."""
_USERS, _SASL = "/etc/postfix/sasl/users", "/etc/postfix/sasl/smtpd.conf"
_ADD_USERS = f"""\
realm=$(postconf -hx smtpd_sasl_local_domain)
while IFS= read -r user && IFS= read -r password; do
    printf %s "$password" | saslpasswd2 -p -c -u "${{realm:-$(postconf -hx myhostname)}}" -- "$user"
done < {_USERS}
chgrp postfix /etc/sasldb2
[ -e {CERTIFICATE} ] || printf '%s starttls\\n' 0.0.0.0/0 ::/0 > /etc/postfix/sasl/discard
touch /etc/postfix/sasl/discard
"""
"""Writes the password file of Cyrus SASL (saslpasswd2(8)) so that smtpd(8) can read it without root's rights. A node
without a certificate (Compose) offers no STARTTLS: a client that accepts the offer would fail."""
_AUXPROP = "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\n"
_QUICK_START = "/var/spool/postfix/quick-start"
"""If this file exists, Postfix's start script does not check the queue's folders: the image build has done so."""
_AGAIN = f"{DIRECTORY}/again"
"""If this file exists when Postfix ends, the start script starts Postfix again."""
_LISTENING = 'listening() { ss -Hltn "! src 127.0.0.11" | tr -s " " | cut -d " " -f 4 | sort; }\n'
"""Shell function: lists the addresses on which Postfix listens. 127.0.0.11, Docker's resolver, is left out."""
_PID = "/var/spool/postfix/pid/master.pid"
_START = f"""\
exec gather ${{2:+--copy "$2"}} sh -uc '
{_LISTENING}
stopped=
trap "stopped=1; kill \\$(cat {_PID}) 2>/dev/null || kill -9 \\$child" HUP INT QUIT TERM
while :; do
    (trap "" HUP INT QUIT TERM; exec postfix start-fg) & child=$!
    while wait $child; status=$?; kill -0 $child 2>/dev/null; do :; done
    [ -z "$stopped" ] || exit 0
    [ -e {_AGAIN} ] || exit $status
    until [ -z "$(listening)" ]; do sleep 0.02; done
    : > {_QUICK_START}
    rm {_AGAIN}
done'
"""
"""master(8) has its own session: a signal to the process group of the start script does not reach it. So the trap
signals the process of the pid file. ``postfix start-fg`` ignores the signals, because it must end after master(8).

After master(8) has ended, other processes of Postfix hold the ports for a moment; a restart waits for these ports."""
_RESTART = f"""\
{_LISTENING}
before=$(listening)
: > {_AGAIN}
kill "$(cat {_PID})"
while [ -e {_AGAIN} ]; do sleep 0.02; done
until [ "$(listening)" = "$before" ]; do sleep 0.02; done
"""
"""Stops Postfix; waits until the restarted Postfix listens on each address on which the stopped one listened."""

_QUEUE = ("deferred", "incoming", "active", "deferred", "hold")
"""Queue directories in the order in which messages move, so that a listing includes messages that move meanwhile."""
_FIND = (  # a message that moves during the listing causes no error
    *("find", *(f"/var/spool/postfix/{name}" for name in _QUEUE)),
    *("-ignore_readdir_race", "-type", "f", "-printf", "%f\\n"),
)


_Word = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,255}$")]


class Settings(Strict):
    """Settings of Postfix in a bed file."""

    main_cf: Annotated[dict[str, str | int | bool], AfterValidator(_overrides)] = Field(default_factory=dict)
    """Parameters of main.cf (postconf(5)). They override the bed's parameters, and those of the user's own main.cf
    (``files``). The plan lists each parameter that the bed overrides."""
    users: dict[_Word, _Word] = Field(default_factory=dict)
    """Name -> password for AUTH (RFC 4954). With users, the relay offers STARTTLS on port 25, and submission with TLS
    and AUTH on ports 587 (RFC 6409) and 465 (RFC 8314). A user's own main.cf or master.cf has its own settings."""
    log_to: str | None = None
    """Name of the inbox node that gets a copy of the log; the inbox shows the log in its page and API."""


def _entries(printed: str) -> list[Queued]:
    """Read the queue ids that find(1) printed, and the JSON lines of postqueue(1) after them."""
    found: dict[str, Queued] = {}
    for line in printed.splitlines():
        if line.startswith("{"):
            one = json.loads(line)
            reasons = {to["address"]: to.get("delay_reason", "") for to in one["recipients"]}
            sender = "" if one["sender"] == "MAILER-DAEMON" else one["sender"]
            id_, state = one["queue_id"], one["queue_name"]
            found[id_] = Queued(id=id_, sender=sender, recipients=reasons, state=state)
        else:
            found.setdefault(line, Queued(id=line, sender="", recipients={}, state="moving"))
    return list(found.values())


class Postfix(Service[Settings]):
    """The service."""

    name = "postfix"
    role = Role.RELAY
    image = "postfix"
    settings = Settings
    capabilities = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")
    ready = re.compile(r"postfix/master\[\d+\]: daemon started ")
    version = ("postconf", "-h", "mail_version")
    queue = Queue(
        command=_FIND,
        length=lambda printed: len(set(printed.split())),  # a set: a message that moves may be listed twice
        flush=("postqueue", "-f"),
        listing=Listing(
            command=("sh", "-euc", '"$@"; exec postqueue -j', "sh", *_FIND),
            read=_entries,
            head=lambda id_: ("postcat", "-hq", id_),
        ),
    )
    restart = ("sh", "-euc", _RESTART)

    def render(self, site: Site[Settings]) -> Rendered:
        """Render a relay for the bed. A user's own main.cf or master.cf replaces the bed's file."""
        main_cf, changes, detours = _main_cf(site)
        master_cf = _master_cf(site)
        if MASTER in site.files:
            v4s = site.addresses if site.families.has_v4 else ()
            v6s = map(twin, site.addresses) if site.families.has_v6 else ()
            own = [str(address) for address in (*v4s, *v6s)]
            main = {**postfix_config.parameters(site.files.get(MAIN, main_cf)), **_given(site)}
            master_cf, further, away = postfix_config.master(site.files[MASTER], own, main)
            changes, detours = [*changes, *further], [*detours, *away]
        tables = {path: text for path, text in site.files.items() if path not in {MAIN, MASTER}}
        detours += postfix_config.table_detours(tables)
        packaged = [path for path in site.files if postfix_config.PACKAGED.match(path)]
        changes += [Override(setting=p, old="given", new=None, reason="a file of the package") for p in packaged]
        compiles = bool(site.files) or any(":" in str(value) for value in site.settings.main_cf.values())
        script = (_CHECK, _ADD_USERS if site.settings.users else "", _COMPILE if compiles else "", _START)
        users = "".join(f"{name}\n{password}\n" for name, password in site.settings.users.items())
        sasl = {_USERS: users.encode(), _SASL: _AUXPROP.encode()} if users else {}
        return Rendered(
            command=("sh", "-euc", "".join(script), "sh", _fatal(site), *_copy(site)),
            files={MAIN: main_cf.encode(), MASTER: master_cf.encode(), _QUICK_START: b"", **sasl},
            taken=frozenset({MAIN, MASTER, *packaged}),
            changes=tuple(changes),
            detours=tuple(detours),
            publish=("25/tcp", *(("465/tcp", "587/tcp") if users else ())),
            fds=4096,
            memory_mb=1024,
        )

    def addresses(self, files: Mapping[str, str], families: Families) -> int:
        """Return the number of addresses that the services of a user's own master.cf need."""
        return postfix_config.addresses(files.get(MASTER, ""), families)

    def read_log(self, lines: Iterable[tuple[float, str]]) -> RelayLog:
        """Read Postfix's log."""
        return postfix_log.read(lines)


def _fatal(site: Site[Settings]) -> str:
    """Return the pattern of the postconf warnings that stop the node.

    With the bed's main.cf, every warning stops the node; with a user's, only warnings about the bed file's parameters.
    """
    names = "|".join(re.escape(name) for name in site.settings.main_cf)
    return rf"unused parameter: ({names})=" if MAIN in site.files else "."


def _copy(site: Site[Settings]) -> tuple[str, ...]:
    """Return the command that receives a copy of the log, or (); raises InvalidInput for an unsuitable ``log_to``."""
    to = site.settings.log_to
    if to is None:
        return ()
    if to not in site.nodes.keys() - site.relays.keys():
        raise InvalidInput(f"the name of an inbox's node as log_to of node {site.node}", repr(to), "correct it")
    address = site.nodes[to] if site.families.has_v4 else twin(site.nodes[to])
    return (f"send-log {address} {relay_log.PORT} /var/log/copy",)


_PROTOCOLS = {"all": {4, 6}, "ipv4": {4}, "ipv6": {6}}
"""inet_protocols (postconf(5)) -> IP versions."""


def _protocols(site: Site[Settings], wanted: str | None) -> set[int]:
    """Return the IP versions that Postfix uses: those in ``wanted`` (inet_protocols), or else the bed's.

    Raises InvalidInput if these lack the IP version that the bed needs (IPv4, except in a bed without IPv4).
    """
    families = site.families
    words = (wanted or ("all" if families.has_v6 else "ipv4")).replace(",", " ").split()
    if not words or not set(words) <= set(_PROTOCOLS):
        raise InvalidInput(f"inet_protocols of node {site.node}: all, ipv4 or ipv6", repr(wanted), "correct it")
    versions = set().union(*(_PROTOCOLS[word] for word in words))
    needed = 4 if families.has_v4 else 6
    if needed not in versions:
        raise InvalidInput(
            f"inet_protocols of node {site.node} with IPv{needed}: the bed has `families: {families}`",
            repr(wanted),
            f"leave it out, and give the bed `families: v{10 - needed}`",
        )
    return versions if families.has_v6 else {4}


def _given(site: Site[Settings]) -> dict[str, str]:
    """Return the bed file's parameters of main.cf, with their values in the spelling of main.cf."""
    words = {True: "yes", False: "no"}
    return {n: words[v] if isinstance(v, bool) else str(v) for n, v in site.settings.main_cf.items()}


def _main_cf(site: Site[Settings]) -> tuple[str, list[Override], list[str]]:
    """Return the text of main.cf, the bed's changes to the user's parameters, and the detours."""
    given = _given(site)
    own = site.files.get(MAIN)
    theirs = {**({} if own is None else postfix_config.parameters(own)), **given}
    place = _place(site, _protocols(site, theirs.get("inet_protocols")))
    addresses = {name: value for name, (value, _) in place.items() if name != "inet_protocols"}
    if own is None:
        ours = {**_OWN, **place, **(_SUBMISSION if site.settings.users else {})}
        forced, changes = postfix_config.needed({**{n: v for n, (v, _) in ours.items()}, **given}, addresses)
        lines = [f"# {reason}\n{name} = {value}\n" for name, (value, reason) in ours.items() if name not in given]
        text = "".join(lines)
    else:
        fixed = ["inet_interfaces"] if site.families is Families.BOTH else ["inet_interfaces", "inet_protocols"]
        forced, changes = postfix_config.needed(theirs, {name: place[name][0] for name in fixed})
        text = postfix_config.without(own, frozenset({*given, *forced}))
    text += "".join(f"# from the bed file\n{n} = {v}\n" for n, v in given.items() if n not in forced)
    text += "".join(f"# as the bed needs it\n{n} = {v}\n" for n, v in forced.items() if v is not None)
    return text, changes, postfix_config.detours(theirs)


def _place(site: Site[Settings], versions: set[int]) -> dict[str, tuple[str, str]]:
    """Return the parameters that depend on the node's addresses, name and network: name -> value, reason."""
    own = {4: str(site.v4), 6: str(twin(site.v4))}
    networks = {4: str(site.lab), 6: f"[{site.lab6.network_address}]/{site.lab6.prefixlen}"}
    return {
        "inet_protocols": (
            "all" if versions == {4, 6} else f"ipv{min(versions)}",
            "the families of the bed" if site.families.has_v4 else "IPv4 for the published port only; see master.cf",
        ),
        "myhostname": (f"{site.node}.nodes.test", "the node's name in the bed's DNS"),
        "mydomain": ("nodes.test", "the nodes' domain in the bed's DNS"),
        "inet_interfaces": (
            ", ".join(own[version] for version in sorted(versions)),
            "its service address; published ports lead there",
        ),
        **{
            name: (own[version], "mail leaves over the lab")
            for version, name in ((4, "smtp_bind_address"), (6, "smtp_bind_address6"))
            if version in versions
        },
        # The host connects from the gateway of the control network; the engine chooses this network's addresses.
        "mynetworks": (
            ", ".join([*(networks[version] for version in sorted(versions)), CONTROL]),
            "the bed, and the host through its published port",
        ),
    }


_MASTER_CF = """\
# service   type  private unpriv chroot wakeup maxproc command. No chroot: its copy of resolv.conf would be out of date.
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


_SUBMISSION_CF = """\
587         inet  n       -      n      -      -       smtpd -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt -o smtpd_sasl_auth_enable=yes
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
465         inet  n       -      n      -      -       smtpd -o syslog_name=postfix/submissions
  -o smtpd_tls_wrappermode=yes -o smtpd_sasl_auth_enable=yes
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
"""


def _master_cf(site: Site[Settings]) -> str:
    """Return the text of master.cf. In a bed without IPv4, the SMTP client looks up no IPv4 address of a mail host."""
    client, services = "smtp", _MASTER_CF + (_SUBMISSION_CF if site.settings.users else "")
    if not site.families.has_v4:
        client += f" -o inet_protocols=ipv6 -o inet_interfaces={twin(site.v4)}"
    return re.sub(r"^((?:smtp|relay) +unix .* )smtp$", rf"\g<1>{client}", services, flags=re.MULTILINE)


SERVICE = Postfix()

// The page of an inbox. Text of mail enters the document only as text nodes; HTML of mail is shown only in a sandboxed frame.

const PAGE = 100;
const LOG_S = 60;  // seconds for which a request waits for further log lines
const byId = (id) => document.getElementById(id);
const state = { query: "", messages: [], total: 0, selected: null, tab: "Text" };

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

async function ask(path, options = {}) {
  const answer = await fetch(`/api/${path}`, options);
  const body = (answer.headers.get("content-type") || "").includes("json") ? await answer.json() : await answer.text();
  if (!answer.ok) throw new Error(typeof body === "string" ? body : JSON.stringify(body.detail, null, 1));
  return body;
}

const send = (path, method, body) =>
  ask(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
const conditions = (more = {}) => new URLSearchParams({ query: state.query, ...more });
const time = (t) => new Date(1000 * t).toLocaleString();
const today = (t) => new Date(1000 * t).toDateString() === new Date().toDateString();
const brief = (t) => (today(t) ? new Date(1000 * t).toLocaleTimeString() : new Date(1000 * t).toLocaleDateString());
const octets = (n) => (n < 1024 ? `${n} B` : n < 1048576 ? `${(n / 1024).toFixed(1)} KiB` : `${(n / 1048576).toFixed(1)} MiB`);
const person = ({ name, address }) => (name ? `${name} <${address}>` : address);

// ------------------------------------------------------------------------------------------------------------- the list

let latest = null;
async function load(start = 0) {
  const path = latest = `messages?${conditions({ limit: PAGE, start })}`;
  try {
    const listing = await ask(path);
    if (path === latest) {  // no other search began meanwhile
      state.messages = start ? [...state.messages, ...listing.messages] : listing.messages;
      state.total = listing.total;
      showList();
    }
    return listing.cursor;
  } catch (error) {
    showProblem(error);
    return 0;
  }
}

function showList() {
  byId("count").textContent = state.total === 1 ? "1 message" : `${state.total} messages`;
  byId("empty").hidden = state.messages.length > 0;
  byId("more").hidden = state.messages.length >= state.total;
  byId("messages").replaceChildren(...state.messages.map(row));
}

function row(message) {
  const author = message.author[0];
  const from = (author && (author.name || author.address)) || message.sender || "<>";
  return element(
    "li",
    {
      id: `m${message.id}`, role: "option", class: message.seen ? null : "new",
      "aria-selected": message.id === state.selected ? "true" : "false",
      onclick: () => { location.hash = `#${message.id}`; },
    },
    element("span", { class: "line" }, element("span", {}, from), element("time", { class: "soft", title: time(message.t) }, brief(message.t))),
    element("span", { class: "subject" }, message.subject || "(no subject)"),
    element("span", { class: "soft" }, message.recipients.join(", ")),
  );
}

function step(by) {
  const at = state.messages.findIndex((message) => message.id === state.selected);
  const next = state.messages[at < 0 ? 0 : Math.min(Math.max(at + by, 0), state.messages.length - 1)];
  if (next) location.hash = `#${next.id}`;
}

// ---------------------------------------------------------------------------------------------------------- one message

const TABS = {
  Text: (message) => element("pre", {}, message.text || "(no text)"),
  HTML: (message) =>
    message.html
      ? element("iframe", { sandbox: "", title: "HTML of the message", src: `/api/messages/${message.id}/html`, referrerpolicy: "no-referrer" })
      : element("p", { class: "soft" }, "The message has no HTML."),
  Headers: (message) =>
    element("table", {}, ...message.headers.map(([name, value]) =>
      element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)))),
  Parts: (message) =>
    element("table", {}, ...message.parts.map((part) =>
      element("tr", {},
        element("td", {}, element("a", { href: `/api/messages/${message.id}/parts/${encodeURIComponent(part.id)}`, download: part.filename || `part-${part.id}` }, part.id)),
        element("td", {}, part.content_type), element("td", {}, part.filename), element("td", {}, octets(part.size))))),
  Authentication: (message) => {
    const shown = element("div", {}, "…");
    ask(`messages/${message.id}/authentication`).then(({ spf, dkim, dmarc }) => {
      const rows = [["SPF", spf, `client ${spf.client || "none"}`], ...dkim.map((one) => ["DKIM", one, `selector ${one.selector}`]),
        ["DMARC", dmarc, dmarc.policy && `policy ${dmarc.policy}`]];
      shown.replaceChildren(
        element("table", {}, ...rows.map(([method, { result, domain, reason }, fact]) =>
          element("tr", {}, element("th", { scope: "row", class: "whole" }, method), element("td", { class: "whole" }, result),
            element("td", {}, [domain, fact].filter(Boolean).join(", ")), element("td", {}, reason)))),
        dkim.length ? "" : element("p", { class: "soft" }, "The message has no DKIM signature."),
      );
    }, (error) => { shown.replaceChildren(element("p", { class: "wrong", role: "alert" }, error.message)); });
    return shown;
  },
  "Relay's log": (message, left) => {
    const lines = element("pre", {}, "…");
    const problem = element("p", { class: "soft", role: "status" });
    followLog(message.id, lines, problem, left);
    return element("div", {}, lines, problem);
  },
  Source: (message) => {
    const shown = element("pre", {}, "…");
    fetch(`/api/messages/${message.id}/raw`).then((answer) => answer.text()).then((text) => { shown.textContent = text.slice(0, 1000000); });
    return shown;
  },
};

async function followLog(id, lines, problem, left) {
  for (let known = -1; ;) {
    let log;
    try {
      log = await ask(`messages/${id}/log?known=${known}&timeout=${known < 0 ? 0 : LOG_S}`, { signal: left });
    } catch (error) {
      if (!left.aborted) problem.textContent = error.message;
      return;
    }
    lines.textContent = log.lines.map(({ text }) => text).join("\n");
    problem.textContent = log.problem || (log.lines.length ? "" : "The log has no line about the message yet.");
    if (log.relay === null) return;
    known = log.lines.length;
  }
}

let leave = new AbortController();  // aborts the open requests of the shown tab
async function open(id) {
  state.selected = id;
  document.body.classList.add("open");
  let message;
  try {
    message = await ask(`messages/${id}`);
  } catch (error) {
    showProblem(error);
    return;
  }
  if (state.selected !== id) return;
  const listed = state.messages.find((one) => one.id === id);
  if (listed && !listed.seen) {
    listed.seen = true;
    send(`messages/${id}/seen`, "PUT", true);
  }
  showList();
  byId(`m${id}`)?.scrollIntoView({ block: "nearest" });
  const facts = {
    From: message.author.map(person).join(", "), To: message.to.map(person).join(", "), Cc: message.cc.map(person).join(", "),
    "Envelope sender": message.sender || "<>", "Envelope recipients": message.recipients.join(", "),
    Arrived: `${time(message.t)}, ${octets(message.size)}, from ${message.client || "HTTP"} (${message.helo})`,
    Security: message.tls, User: message.user, Tags: message.tags.join(", "),
  };
  const body = element("div", { role: "tabpanel" });
  const tabs = Object.keys(TABS).map((name) => element("button", { type: "button", role: "tab", onclick: () => show(name) }, name));
  const show = (name) => {
    state.tab = name;
    for (const tab of tabs) tab.setAttribute("aria-selected", String(tab.textContent === name));
    leave.abort();
    leave = new AbortController();
    body.replaceChildren(TABS[name](message, leave.signal));
  };
  byId("detail").replaceChildren(
    element("p", {}, element("a", { href: "#" }, "Back"), " ",
      element("button", { type: "button", onclick: () => remove(id) }, "Delete"), " ",
      element("a", { href: `/api/messages/${id}/raw`, download: `${id}.eml` }, "Download")),
    element("h2", {}, message.subject || "(no subject)"),
    element("dl", {}, ...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) =>
      [element("dt", {}, name), element("dd", {}, value)])),
    element("div", { role: "tablist" }, ...tabs),
    body,
  );
  show(state.tab);
}

async function remove(id) {
  const at = state.messages.findIndex((message) => message.id === id);
  await ask(`messages/${id}`, { method: "DELETE" });
  const next = state.messages[at + 1] || state.messages[at - 1];
  location.hash = next ? `#${next.id}` : "#";
}

// ------------------------------------------------------------------------------------------------------ rules, attempts

async function showRules() {
  document.body.classList.add("open");
  const rules = await ask("rules");
  const plain = rules.map(({ rule }) => Object.fromEntries(Object.entries(rule).filter(([name, value]) =>
    value !== null && !((name === "every" || name === "chance") && value === 1))));
  const text = element("textarea", { "aria-label": "Rules as JSON", spellcheck: "false" });
  text.value = JSON.stringify(plain, null, 1);
  const outcome = element("p", { role: "status" });
  const put = async () => {
    try {
      await send("rules", "PUT", JSON.parse(text.value));
      await showRules();
    } catch (error) {
      outcome.className = "wrong";
      outcome.textContent = error.message;
    }
  };
  byId("detail").replaceChildren(
    element("p", {}, element("a", { href: "#" }, "Back")),
    element("h2", {}, "Rules: the first one that matches decides"),
    element("table", {}, ...rules.map(({ id, hits }, i) =>
      element("tr", {}, element("td", {}, String(id)), element("td", {}, JSON.stringify(plain[i])), element("td", {}, `${hits} hits`)))),
    text, element("p", {}, element("button", { type: "button", onclick: put }, "Put in force")), outcome,
  );
}

async function showAttempts() {
  document.body.classList.add("open");
  const { events } = await ask("attempts?newest=true");
  byId("detail").replaceChildren(
    element("p", {}, element("a", { href: "#" }, "Back")),
    element("h2", {}, "Attempts that rules, limits or passwords answered"),
    element("table", {},
      element("tr", {}, ...["Time", "On", "Sender", "Recipients", "Reply", "Rule"].map((name) => element("th", { scope: "col" }, name))),
      ...events.map(({ t, data }) => element("tr", {}, ...[
        time(t), data.on, data.sender ?? "", (data.recipients || []).join(", "), data.reply || data.then || "", data.rule ?? "",
      ].map((cell) => element("td", {}, String(cell)))))),
  );
}

function showProblem(error) {
  byId("detail").replaceChildren(element("p", { class: "wrong", role: "alert" }, error.message));
}

// ------------------------------------------------------------------------------------------------------------- the page

function route() {
  leave.abort();
  const id = Number(location.hash.slice(1));
  if (Number.isInteger(id) && id > 0) {
    open(id);
  } else {
    state.selected = null;
    document.body.classList.remove("open");
    byId("detail").replaceChildren();
    showList();
  }
}

let reload = null;
function listen(cursor) {
  const events = new EventSource(`/api/events?after=${cursor}`);
  const again = () => {  // reloads once for a burst of arrivals
    reload ??= setTimeout(async () => { reload = null; await load(); }, 100);
  };
  for (const kind of ["message", "deleted"]) events.addEventListener(kind, again);
  events.onopen = () => { byId("live").textContent = "live"; byId("live").className = "on"; };
  events.onerror = () => { byId("live").textContent = "offline"; byId("live").className = ""; };
}

const KEYS = {
  j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
  "/": () => byId("query").focus(), Escape: () => { location.hash = "#"; byId("messages").focus(); },
  Enter: () => byId("detail").focus(), d: () => state.selected && remove(state.selected), Delete: () => state.selected && remove(state.selected),
};

addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea");
  if (event.ctrlKey || event.altKey || event.metaKey || (typing && event.key !== "Escape")) return;
  if (event.target.matches("button, a") && event.key === "Enter") return;
  if (event.target.id === "detail" && event.key.startsWith("Arrow")) return;  // scrolls
  if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
addEventListener("hashchange", route);
byId("search").addEventListener("submit", (event) => event.preventDefault());
let typed = null;
byId("query").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => { state.query = byId("query").value; load(); }, 100);
});
byId("more").addEventListener("click", () => load(state.messages.length));
byId("show-rules").addEventListener("click", showRules);
byId("show-attempts").addEventListener("click", showAttempts);
byId("delete-all").addEventListener("click", async () => {
  if (confirm(`Delete the ${state.total} messages that are listed?`)) await ask(`messages?${conditions()}`, { method: "DELETE" });
});
listen(await load());
route();

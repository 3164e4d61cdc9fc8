// Takes redrawn panels from the server and changes what differs, so that focus, selection and scroll stay where they are.
"use strict";
(() => {
  const live = document.getElementById("live");
  const parser = new DOMParser();
  let source = null;

  // ── panels ──

  const isSame = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName &&
    (a.dataset?.key ?? "") === (b.dataset?.key ?? "");

  function become(old, fresh) {
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    children(old, fresh);
  }

  function children(old, fresh) {
    const byKey = new Map([...old.children].filter((each) => each.dataset.key).map((each) => [each.dataset.key, each]));
    let place = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const key = wanted.dataset?.key;
      let found = key ? byKey.get(key) : place;
      if (found && isSame(found, wanted)) {
        if (found !== place) old.insertBefore(found, place);
        else place = place.nextSibling;
        become(found, wanted);
        byKey.delete(key);
      } else {
        old.insertBefore(document.adoptNode(wanted), place);
      }
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  }

  function draw(panels) {
    for (const [id, text] of Object.entries(panels)) {
      const panel = document.getElementById(id);
      if (!panel) continue;
      const fresh = parser.parseFromString(text, "text/html").body;
      children(panel, fresh);
    }
    if (pointed) point(pointed);
  }

  // ── the stream ──

  function say(text, kind) {
    live.textContent = text;
    live.className = kind;
    document.body.classList.toggle("stale", kind === "lost");
  }

  function listen() {
    if (source || document.hidden) return;
    source = new EventSource("/dashboard/events");
    source.addEventListener("panels", (event) => {
      draw(JSON.parse(event.data));
      say("live", "on");
    });
    source.addEventListener("stuck", () => say("the sidecar's event loop does not answer", "lost"));
    source.onerror = () => {
      say("no connection to the sidecar; what you see is old", "lost");
      if (source && source.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(listen, 3000);
      }
    };
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden && source) {
      source.close();
      source = null;
    } else listen();
  });

  // ── pointing at a chart shows that moment in all of them ──

  let pointed = null;
  const shown = {
    rate: (v) => v === 0 ? "0" : v < 9.95 ? (v < 0.05 ? "<0.1" : v.toFixed(1)) : Math.round(v).toLocaleString("en"),
    seconds: (v) => v < 0.001 ? `${Math.round(v * 1e6)} µs` : v < 0.00995 ? `${(v * 1e3).toFixed(1)} ms`
      : v < 0.9995 ? `${Math.round(v * 1e3)} ms` : `${v.toFixed(v < 9.995 ? 2 : 0)} s`,
    cores: (v) => v.toFixed(2),
  };

  function point(share) {
    pointed = share;
    for (const figure of document.querySelectorAll("figure")) {
      const svg = figure.querySelector("svg");
      const width = svg.viewBox.baseVal.width;
      const at = share === null ? null : Math.round(share * (width - 1));
      let cursor = svg.querySelector(".cursor");
      if (at === null) cursor?.remove();
      else {
        cursor ??= svg.appendChild(Object.assign(document.createElementNS(svg.namespaceURI, "path")));
        cursor.setAttribute("class", "cursor");
        cursor.setAttribute("d", `M${at} 0V100`);
      }
      svg.dataset.values.split("|").forEach((row, number) => {
        const values = row === "" ? [] : row.split(",");
        const text = figure.querySelector(`[data-curve="${number}"] b`);
        if (!text) return;
        const value = at === null ? undefined : values[values.length - width + at];
        text.textContent = at === null ? text.dataset.now : value ? shown[svg.dataset.unit](Number(value)) : "–";
      });
      const now = figure.querySelector(".axis span:last-child");
      const ago = at === null ? 0 : (width - 1 - at) * Number(svg.dataset.interval);
      now.textContent = at === null ? "now" : `${Math.floor(ago / 60)}:${String(Math.round(ago % 60)).padStart(2, "0")} ago`;
    }
  }

  document.addEventListener("pointermove", (event) => {
    const plot = event.target.closest?.(".plot");
    if (!plot) {
      if (pointed !== null) point(null);
      return;
    }
    const box = plot.getBoundingClientRect();
    point(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
  });

  // ── changes ──

  function confirmed(question) {
    return new Promise((resolve) => {
      const dialog = document.createElement("dialog");
      const text = dialog.appendChild(document.createElement("p"));
      text.textContent = question;
      const row = dialog.appendChild(document.createElement("div"));
      row.className = "actions";
      for (const [name, value] of [["Cancel", ""], ["Yes, do it", "yes"]]) {
        const button = row.appendChild(document.createElement("button"));
        button.textContent = name;
        button.className = value ? "danger" : "";
        button.onclick = () => dialog.close(value);
      }
      dialog.onclose = () => {
        dialog.remove();
        resolve(dialog.returnValue === "yes");
      };
      document.body.append(dialog);
      dialog.showModal();
    });
  }

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.dataset.change) return;
    event.preventDefault();
    const { action } = form;
    const body = new URLSearchParams(new FormData(form, event.submitter));
    if (form.dataset.confirm && !(await confirmed(form.dataset.confirm))) return;
    try {
      const answer = await fetch(action, {
        method: "POST", body, headers: { accept: "text/plain", "x-sidecar-csrf": document.querySelector("meta[name=csrf]").content },
      });
      const text = (await answer.text()).trim();
      tell(answer.ok ? done(text) : `Not done: ${text}`);
    } catch {
      tell("Not done: no connection to the sidecar");
    }
  });

  function done(text) {
    const { cluster, phase, percent } = JSON.parse(text);
    return `${cluster}: ${phase.replace("_", " ")}, ${percent} % for the candidate`;
  }

  let silence = 0;
  function tell(text) {
    document.getElementById("said").textContent = text;
    clearTimeout(silence);
    silence = setTimeout(() => { document.getElementById("said").textContent = ""; }, 10000);
  }

  listen();
})();

// The page works without this. With it, forms that ask first open in a dialog, and what changed is fetched again.
"use strict";

(() => {
  const REFRESH_EVERY_MS = 30_000; // "in 38 min" grows old even when nothing happens
  const dialog = document.createElement("dialog");
  document.body.append(dialog);

  const isBusy = () => dialog.open || document.activeElement?.matches("input, textarea, select");

  async function fetchPage(url) {
    const answer = await fetch(url, { headers: { Accept: "text/html" } });
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  }

  async function refresh() {
    if (isBusy() || document.hidden) return;
    const page = await fetchPage(location.href).catch(() => null);
    if (!page || isBusy()) return;
    for (const fresh of page.querySelectorAll("[data-fragment]")) {
      const present = document.getElementById(fresh.id);
      if (present && present.innerHTML !== fresh.innerHTML) replace(present, fresh);
    }
  }

  function replace(present, fresh) {
    const focused = present.contains(document.activeElement) ? document.activeElement.id : "";
    for (const open of present.querySelectorAll("details[open][id]")) {
      fresh.querySelector(`#${open.id}`)?.setAttribute("open", "");
    }
    present.replaceChildren(...fresh.childNodes);
    if (focused) document.getElementById(focused)?.focus();
  }

  async function ask(form) {
    const url = `${form.action}?${new URLSearchParams(new FormData(form))}`;
    const page = await fetchPage(url).catch(() => null);
    const question = page?.querySelector(".confirm");
    if (!question) return location.assign(url);
    dialog.replaceChildren(question);
    dialog.setAttribute("aria-labelledby", "question");
    dialog.showModal();
    dialog.querySelector("[autofocus]")?.focus();
  }

  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-asks]")) return;
    event.preventDefault();
    ask(event.target);
  });

  dialog.addEventListener("click", (event) => {
    if (event.target !== dialog && !event.target.closest("[data-cancel]")) return;
    event.preventDefault();
    dialog.close();
  });

  function follow() {
    const status = document.querySelector("[data-live]");
    if (!status) return;
    const say = (words, isLive) => {
      status.textContent = words;
      status.classList.toggle("is-live", isLive);
    };
    const events = new EventSource("/live");
    let waiting = 0;
    events.onopen = () => say("live", true);
    events.onerror = () => say("reconnecting", false);
    events.addEventListener("changed", () => {
      clearTimeout(waiting);
      waiting = setTimeout(refresh, 150);
    });
    addEventListener("pagehide", () => events.close());
    addEventListener("pageshow", (event) => event.persisted && location.reload());
    document.addEventListener("visibilitychange", refresh);
    setInterval(refresh, REFRESH_EVERY_MS);
  }

  follow();
})();

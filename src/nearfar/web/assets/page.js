// Parts of a page with the attribute data-refresh are fetched again while the page is visible.
// Without this script, reload the page.
"use strict";
const EVERY_MS = 5000;
async function refresh() {
  const parts = [...document.querySelectorAll("[data-refresh]")];
  if (document.hidden || parts.length === 0) return;
  const answer = await fetch(location.href, { redirect: "error" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const other = fresh.getElementById(part.id);
    const focused = part.contains(document.activeElement); // do not take the focus of the keyboard away
    const selected = !getSelection().isCollapsed && part.contains(getSelection().anchorNode);
    if (other && !focused && !selected && other.innerHTML !== part.innerHTML) part.replaceChildren(...other.childNodes);
  }
}
setInterval(() => refresh().catch(() => {}), EVERY_MS);

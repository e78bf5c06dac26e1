// Parts of a page, taken anew from the server: those that differ are replaced, what is open or focused in them stays so.
const Parts = (() => {
  "use strict";
  const FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex]";

  const replace = (old, fresh) => {
    if (old.innerHTML === fresh.innerHTML) return;
    const open = [...old.querySelectorAll("details")].map((each) => each.open);
    const scrolled = [...old.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
    const focused = [...old.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
    old.replaceChildren(...fresh.childNodes);
    old.querySelectorAll("details").forEach((each, index) => { each.open = open[index] ?? each.open; });
    old.querySelectorAll(".scroll").forEach((each, index) => { each.scrollLeft = scrolled[index] ?? 0; });
    if (focused >= 0) old.querySelectorAll(FOCUSABLE)[focused]?.focus({ preventScroll: true });
  };

  // Fetches this page and replaces its parts; false where the server could not be asked.
  const renew = async () => {
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (!answer.ok || answer.redirected) return false;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-part]")) {
        const fresh = page.getElementById(old.id);
        if (fresh) replace(old, fresh);
      }
      return true;
    } catch {
      return false;
    }
  };

  return { renew };
})();

// Parts of a page, taken anew from the server: those that differ are replaced, what is open or focused in them stays so.
const Parts = (() => {
  "use strict";
  const LOST = {
    away: "The connection to the service is lost; it is tried again.",
    login: "Your login is over; load this page again.",
  };
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

  // Says in the page what is lost, if something is.
  const tell = (state) => {
    const box = document.getElementById("lost"), words = LOST[state] ?? "";
    if (box.textContent !== words) box.textContent = words;
    box.hidden = !words;
  };

  const fetched = async () => {
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (answer.redirected) return "login";
      if (!answer.ok) return "away";
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      document.title = page.title;
      for (const old of document.querySelectorAll("[data-part]")) {
        const fresh = page.getElementById(old.id);
        if (fresh) replace(old, fresh);
      }
      return "fine";
    } catch {
      return "away";
    }
  };

  // Fetches this page and replaces its parts: "fine", or what is in the way.
  const renew = async () => {
    const state = await fetched();
    tell(state);
    return state;
  };

  return { renew, tell };
})();

// Keeps the YAML beside the form in step with its fields, and shows at each field what the service has against it.
(() => {
  "use strict";
  const PAUSE_MS = 300;
  const form = document.getElementById("submission"), yaml = document.getElementById("yaml");
  const general = document.getElementById("faults"), button = document.getElementById("preview");
  const byHand = document.getElementById("by-hand");
  if (!button) return;
  button.hidden = true;
  let waiting = null, asked = 0;

  const tell = (box, text) => {
    const field = box.querySelector("input, select, textarea"), id = `${field.id}-fault`;
    document.getElementById(id)?.remove();
    const others = (field.getAttribute("aria-describedby") ?? "").split(" ").filter((each) => each && each !== id);
    field.setAttribute("aria-describedby", (text ? [id, ...others] : others).join(" "));
    if (!text) {
      field.removeAttribute("aria-invalid");
      return;
    }
    const fault = document.createElement("p");
    fault.className = "fault";
    fault.id = id;
    fault.textContent = text;
    field.setAttribute("aria-invalid", "true");
    field.after(fault);
    const folded = box.closest("details");
    if (folded) folded.open = true;
  };

  const fields = (form) => {
    const filled = new URLSearchParams(new FormData(form));
    filled.delete("yaml");
    return filled;
  };

  const preview = async () => {
    const number = ++asked;
    try {
      const answer = await fetch("/submit/preview", { method: "POST", body: fields(form) });
      if (!answer.ok || number !== asked) return;
      const found = await answer.json();
      if (byHand.hidden) yaml.value = found.yaml;
      form.querySelectorAll("[data-path]").forEach((box) => tell(box, found.faults[box.dataset.path]));
      general.replaceChildren(...found.others.map((text) => {
        const line = document.createElement("p");
        line.textContent = text;
        return line;
      }));
      general.hidden = found.others.length === 0;
    } catch {
      // The service is away for a moment: the next change asks again, and submitting tells what is wrong.
    }
  };

  form.addEventListener("input", (event) => {
    if (event.target === yaml) {
      byHand.hidden = false;  // from now on nothing here overwrites it
      return;
    }
    clearTimeout(waiting);
    waiting = setTimeout(preview, PAUSE_MS);
  });

  // What was filled before this ran: by a quick hand, or by the browser that comes back to the page.
  const pristine = form.cloneNode(true);
  pristine.reset();
  byHand.hidden = yaml.value === yaml.defaultValue;
  if (`${fields(form)}` !== `${fields(pristine)}`) preview();
})();

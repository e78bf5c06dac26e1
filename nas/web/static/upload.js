// Sends a file from the browser to /v1/uploads as it is, and shows how much of it has gone.
(() => {
  "use strict";
  const at = (id) => document.getElementById(id);
  const form = at("upload"), file = at("file"), kind = at("kind"), fault = at("upload-fault");
  const limit = Number(form.dataset.limit);
  let request = null;

  const tell = (text) => {
    fault.textContent = text;
    fault.hidden = !text;
    file.setAttribute("aria-invalid", String(Boolean(text)));
  };

  const busy = (under) => {
    at("sending").hidden = at("stop").hidden = !under;
    at("send").disabled = file.disabled = kind.disabled = under;
    if (!under) request = null;
  };

  const said = (answer) => {
    try {
      return JSON.parse(answer).error.message;
    } catch {
      return "the service cannot be asked now; try again";
    }
  };

  const ended = async () => {
    const { status, responseText } = request;
    if (status === 201) {
      await Parts.renew();
      form.reset();
    } else tell(status === 401 ? "Your login is over; load this page again." : `Refused: ${said(responseText)}`);
    busy(false);
    file.focus();
  };

  const send = (chosen) => {
    request = new XMLHttpRequest();
    request.open("POST", `/v1/uploads?${new URLSearchParams({ kind: kind.value, name: chosen.name.slice(-200) })}`);
    request.setRequestHeader("X-CSRF-Token", form.elements.csrf.value);
    let tenth = -1;
    request.upload.onprogress = ({ loaded, total }) => {
      at("sent-bar").value = loaded / total;
      // A status that is read aloud changes ten times, not a thousand.
      if (Math.floor(10 * loaded / total) === tenth) return;
      tenth = Math.floor(10 * loaded / total);
      at("sent").textContent = tenth < 10 ? `${10 * tenth}% of ${chosen.name} is sent` : "It is looked into";
    };
    request.onload = ended;
    request.onerror = () => { tell("The connection was lost before all of it was sent; try again."); busy(false); };
    request.onabort = () => { busy(false); };
    at("sent").textContent = `${chosen.name} is sent`;
    at("sent-bar").value = 0;
    busy(true);
    request.send(chosen);
  };

  file.addEventListener("change", () => {
    tell("");
    const suffix = file.files[0]?.name.split(".").pop().toLowerCase();
    if ([...kind.options].some((option) => option.value === suffix)) kind.value = suffix;
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const [chosen] = file.files;
    tell(chosen.size > limit ? `The file has ${chosen.size.toLocaleString("en")} bytes; ${limit.toLocaleString("en")} are taken.` : "");
    if (chosen.size <= limit) send(chosen);
  });
  at("stop").addEventListener("click", () => request?.abort());
  addEventListener("beforeunload", (event) => { if (request) event.preventDefault(); });
  form.hidden = false;
})();

// The list of jobs, taken anew every two seconds while somebody looks at it.
(() => {
  "use strict";
  const EVERY_MS = 2000, LONGEST_MS = 30000;
  let wait = EVERY_MS;
  const again = async () => {
    if (!document.hidden) wait = (await Parts.renew()) === "fine" ? EVERY_MS : Math.min(2 * wait, LONGEST_MS);
    setTimeout(again, wait);
  };
  setTimeout(again, wait);
})();

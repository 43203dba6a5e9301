// Visits the kiosk again and again, with three questions each time. An extension, because a browser that is driven
// by its debugging protocol keeps what it loads.

const find = (selector) => document.querySelector(selector);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const until = async (condition) => { while (!condition()) await wait(100); };

(async () => {
  for (;;) {
    await until(() => document.body.dataset.state === "attract");
    find("#begin").click();
    find("#agree").click();
    await until(() => find("#labels span"));
    for (const chip of [1, 2, 3]) {
      find(`#chips button:nth-child(${chip})`).click();
      await wait(200);
      await until(() => !find("#talk").hasAttribute("aria-busy"));
    }
    find("#forget").click();
    await until(() => document.body.dataset.state === "attract");
  }
})();

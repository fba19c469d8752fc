"use strict";
(() => {
  const stories = [...document.querySelectorAll(".story")];
  const links = [...document.querySelectorAll(".topics a")];
  const byId = (id) => document.getElementById(id);
  const mark = (element, on, what) => (on ? element.setAttribute("aria-current", what) : element.removeAttribute("aria-current"));
  let story = 0, step = 1;
  const steps = () => stories[story].querySelectorAll(".step");

  function read() { // the address: #fork/3
    const [name, number] = location.hash.slice(1).split("/");
    story = Math.max(0, stories.findIndex((each) => each.id === name));
    step = Math.min(Math.max(parseInt(number, 10) || 1, 1), steps().length);
    show();
  }

  function show() {
    const count = steps().length;
    stories.forEach((each, index) => each.classList.toggle("on", index === story));
    steps().forEach((each, index) => each.classList.toggle("on", index === step - 1));
    stories[story].classList.toggle("last", step === count);
    byId("at").textContent = `${step} / ${count}`;
    byId("back").disabled = step === 1;
    byId("next").disabled = step === count;
    byId("topic").value = stories[story].id;
    links.forEach((each, index) => mark(each, index === story, "page"));
    dots(count);
  }

  function dots(count) {
    const made = [...Array(count).keys()].map((index) => {
      const dot = document.createElement("button");
      dot.title = steps()[index].querySelector("pre").textContent;
      dot.setAttribute("aria-label", `step ${index + 1}`);
      dot.classList.toggle("past", index < step - 1);
      mark(dot, index === step - 1, "step");
      dot.addEventListener("click", () => go(story, index + 1));
      return dot;
    });
    byId("dots").replaceChildren(...made);
  }

  function go(toStory, toStep) {
    const before = story;
    story = Math.min(Math.max(toStory, 0), stories.length - 1);
    step = Math.min(Math.max(toStep, 1), steps().length);
    history.replaceState(null, "", `#${stories[story].id}/${step}`);
    show();
    if (story !== before) scrollTo(0, 0);
  }

  const keys = {
    ArrowRight: () => go(story, step + 1),
    ArrowLeft: () => go(story, step - 1),
    ArrowDown: () => go(story + 1, 1),
    ArrowUp: () => go(story - 1, 1),
    Home: () => go(story, 1),
    End: () => go(story, Infinity),
    " ": () => go(story, step + 1),
  };
  const own = (event) => // keys that the element under the focus has a use for itself
    event.target.matches("select") ||
    (event.target.matches("button, a") && event.key === " ") ||
    (stories.length === 1 && /^Arrow(Up|Down)$/.test(event.key));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || !keys[event.key] || own(event)) return;
    event.preventDefault();
    keys[event.key]();
  });
  byId("next").addEventListener("click", () => go(story, step + 1));
  byId("back").addEventListener("click", () => go(story, step - 1));
  byId("topic").addEventListener("change", (event) => {
    go(stories.findIndex((each) => each.id === event.target.value), 1);
    event.target.blur();
  });
  links.forEach((each, index) => each.addEventListener("click", (event) => {
    event.preventDefault();
    go(index, 1);
  }));
  addEventListener("hashchange", () => { read(); scrollTo(0, 0); });
  document.documentElement.classList.add("stepping");
  read();
})();

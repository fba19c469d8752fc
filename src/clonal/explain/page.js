"use strict";
(() => {
  const stories = [...document.querySelectorAll(".story")];
  const byId = (id) => document.getElementById(id);
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
  }

  function go(toStory, toStep) {
    story = Math.min(Math.max(toStory, 0), stories.length - 1);
    step = Math.min(Math.max(toStep, 1), steps().length);
    history.replaceState(null, "", `#${stories[story].id}/${step}`);
    show();
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
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("select, button") && event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    if (event.altKey || event.ctrlKey || event.metaKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  byId("next").addEventListener("click", () => go(story, step + 1));
  byId("back").addEventListener("click", () => go(story, step - 1));
  byId("topic").addEventListener("change", (event) => {
    go(stories.findIndex((each) => each.id === event.target.value), 1);
    event.target.blur();
  });
  addEventListener("hashchange", read);
  document.documentElement.classList.add("stepping");
  read();
})();

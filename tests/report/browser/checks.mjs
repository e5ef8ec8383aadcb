// What must hold of a page in a browser. Each check gives a list of complaints, which is empty where all is well.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { PHONE, setScheme } from "./open.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const MOST_TABS = 1000;

// Every picture has loaded and takes up room.
export async function checkPictures(page) {
  await openAll(page, true);
  return page.evaluate(() => {
    const named = (each) => each.getAttribute("aria-label") || each.alt || each.outerHTML.slice(0, 80);
    const isEmpty = (each) => {
      const box = each.getBoundingClientRect();
      return box.width < 1 || box.height < 1;
    };
    const broken = [...document.images].filter((each) => !each.complete || each.naturalWidth === 0 || isEmpty(each));
    return [...broken, ...[...document.querySelectorAll("svg")].filter(isEmpty)].map((each) => `picture: ${named(each)}`);
  });
}

// The key Tab reaches all that can be used or scrolled, each with a visible outline; Enter opens details.
export async function checkKeyboard(page) {
  await openAll(page, false);
  const complaints = [];
  const summaries = await page.$$("summary");
  for (const summary of summaries) {
    await summary.focus();
    await page.keyboard.press("Enter");
    const isOpen = await summary.evaluate((each) => each.parentElement.open);
    if (!isOpen) complaints.push(`keyboard: Enter does not open ${await summary.evaluate((each) => each.textContent)}`);
  }
  await page.reload();  // so that Tab starts at the top
  await openAll(page, true);
  await page.evaluate(() => {
    const isScrolling = (each) =>
      (each.scrollWidth > each.clientWidth + 1 || each.scrollHeight > each.clientHeight + 1) &&
      /auto|scroll/.test(getComputedStyle(each).overflow) && each !== document.scrollingElement;
    for (const each of document.querySelectorAll("body *")) {
      if (each.matches("a[href], summary, button, [tabindex='0']") || isScrolling(each)) each.dataset.awaited = "yes";
    }
  });
  for (let count = 0; count < MOST_TABS; count++) {
    await page.keyboard.press("Tab");
    const seen = await page.evaluate(() => {
      const here = document.activeElement;
      if (here === document.body || here.dataset.awaited === "reached") return { done: true };
      const style = getComputedStyle(here);
      const isVisible = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
      here.dataset.awaited = "reached";
      return { done: false, hidden: isVisible ? "" : here.outerHTML.slice(0, 80) };
    });
    if (seen.done) break;
    if (seen.hidden) complaints.push(`keyboard: nothing shows that it is at ${seen.hidden}`);
  }
  const missed = await page.$$eval("[data-awaited='yes']", (all) => all.map((each) => each.outerHTML.slice(0, 80)));
  return [...complaints, ...missed.map((each) => `keyboard: Tab does not reach ${each}`)];
}

// axe-core has nothing to say, about contrast among others.
export async function checkRules(page, scheme) {
  await setScheme(page, scheme);
  await openAll(page, true);
  await page.evaluate(AXE);
  const violations = await page.evaluate(async (tags) => {
    const found = await globalThis.axe.run(document, { runOnly: { type: "tag", values: tags } });
    return found.violations.map(({ id, help, nodes }) => ({ id, help, html: nodes[0].html.slice(0, 120) }));
  }, RULES);
  return violations.map(({ id, help, html }) => `axe, ${scheme}: ${id}: ${help}: ${html}`);
}

// On a phone, nothing but what scrolls by itself is wider than the screen.
export async function checkPhone(page) {
  const before = page.viewport();
  await page.setViewport({ ...PHONE, isMobile: true, hasTouch: true });
  await openAll(page, true);
  const complaints = await page.evaluate((width) => {
    if (document.scrollingElement.scrollWidth <= width) return [];
    const scrolls = (each) => each.closest("pre, .scroll, svg");
    const wide = [...document.querySelectorAll("body *")].filter(
      (each) => !scrolls(each) && each.getBoundingClientRect().right > width + 0.5,
    );
    const culprit = wide.at(-1)?.outerHTML.slice(0, 120) ?? "the page";
    return [`phone: ${document.scrollingElement.scrollWidth} pixels wide, for ${culprit}`];
  }, PHONE.width);
  await page.setViewport(before);
  return complaints;
}

// On paper all text is there, details that are closed on the screen among it, on a white ground, and none is cut off.
export async function checkPrint(page) {
  await openAll(page, false);
  await setScheme(page, "dark", "print");
  const before = page.viewport();
  await page.setViewport({ width: 720, height: 1000 });  // A4 between its margins, in CSS pixels
  const complaints = await page.evaluate(() => {
    const complaints = [];
    for (const details of document.querySelectorAll("details")) {
      for (const each of details.querySelectorAll(":scope > :not(summary)")) {
        const isShown = each.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true });
        if (!isShown || each.getBoundingClientRect().height < 1) {
          complaints.push(`print: closed, and missing on paper: ${details.querySelector("summary").textContent}`);
        }
      }
    }
    for (const each of document.querySelectorAll("pre, .scroll")) {
      if (each.scrollWidth > each.clientWidth + 1) complaints.push(`print: cut off: ${each.textContent.slice(0, 60)}`);
    }
    const ground = getComputedStyle(document.body).backgroundColor;
    if (!["rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"].includes(ground)) complaints.push(`print: on a ground of ${ground}`);
    return complaints;
  });
  const paper = await page.pdf({ format: "A4" });
  if (paper.length < 1000) complaints.push("print: there is no paper");
  await page.setViewport(before);
  await setScheme(page, "light");
  return complaints;
}

async function openAll(page, isOpen) {
  await page.$$eval("details", (all, open) => all.forEach((each) => (each.open = open)), isOpen);
}

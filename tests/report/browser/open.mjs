// Opens the Chromium of the npm package on a page, or says why it cannot.

import { existsSync } from "node:fs";
import puppeteer from "puppeteer-core";

// Where these words stand in the environment, the package also unpacks the libraries that Chromium needs, and a machine
// without a desktop has no others.
process.env.AWS_LAMBDA_JS_RUNTIME = "nodejs20.x";
const { default: chromium } = await import("@sparticuz/chromium");
if (existsSync("/etc/fonts/fonts.conf")) delete process.env.FONTCONFIG_PATH;

export const PHONE = { width: 390, height: 844 };
const DESK = { width: 1280, height: 900 };

// A page is text and drawings: no GPU is needed, and the files were made by whoever runs this.
const WORDS = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--font-render-hinting=none"];

export async function openBrowser() {
  chromium.setGraphicsMode = false;
  const executablePath = await chromium.executablePath();
  return puppeteer.launch({ executablePath, args: WORDS, headless: "shell", defaultViewport: DESK });
}

// Give the page at an address, and the list that fills with what goes wrong on it.
export async function openPage(browser, address) {
  const page = await browser.newPage();
  const wrong = [];
  page.on("console", (message) => {
    if (["error", "warn"].includes(message.type())) wrong.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => wrong.push(`console: ${error.message}`));
  page.on("request", (request) => {
    if (!/^(file|data):/.test(request.url())) wrong.push(`network: asks for ${request.url()}`);
  });
  page.on("requestfailed", (request) => wrong.push(`network: cannot load ${request.url().slice(0, 200)}`));
  await page.goto(address, { waitUntil: "load" });
  return { page, wrong };
}

// Both at once: of puppeteer's two calls, the second would take back the first. What a session sets ends with it.
const sessions = new WeakMap();

export async function setScheme(page, scheme, media = "screen") {
  if (!sessions.has(page)) sessions.set(page, await page.createCDPSession());
  const features = [{ name: "prefers-color-scheme", value: scheme }];
  await sessions.get(page).send("Emulation.setEmulatedMedia", { media, features });
}

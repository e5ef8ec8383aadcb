// usage: node check.mjs FOLDER PAGE... : check pages, leave screenshots in the folder; complaints of each page as JSON.
// Exit code 3 where no browser can be started: the reason is on standard error.

import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";
import { checkKeyboard, checkPhone, checkPictures, checkPrint, checkRules } from "./checks.mjs";
import { PHONE, openBrowser, openPage, setScheme } from "./open.mjs";

const [folder, ...files] = process.argv.slice(2);
const CHECKS = [
  checkPictures,
  checkKeyboard,
  (page) => checkRules(page, "light"),
  (page) => checkRules(page, "dark"),
  checkPhone,
  checkPrint,
];

async function takeScreenshots(page, name) {
  for (const scheme of ["light", "dark"]) {
    await setScheme(page, scheme);
    await page.screenshot({ path: join(folder, `${name}-${scheme}.png`), fullPage: true });
  }
  await setScheme(page, "light");
  await page.setViewport({ ...PHONE, deviceScaleFactor: 2 });
  await page.screenshot({ path: join(folder, `${name}-phone.png`), fullPage: true });
  await setScheme(page, "light", "print");
  await page.pdf({ path: join(folder, `${name}.pdf`), format: "A4" });
}

let browser;
try {
  browser = await openBrowser();
} catch (error) {
  console.error(`no browser can be started: ${error.message.split("\n").join(" ")}`);
  process.exit(3);
}
const told = {};
for (const file of files) {
  const { page, wrong } = await openPage(browser, pathToFileURL(file).href);
  const complaints = [];
  for (const check of CHECKS) complaints.push(...(await check(page)));
  told[file] = [...wrong, ...complaints];
  await page.goto(pathToFileURL(file).href);
  await takeScreenshots(page, basename(file, ".html"));
  await page.close();
}
await browser.close();
console.log(JSON.stringify(told, null, 1));

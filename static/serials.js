// The serial box: groups while one types, and says at once when the check symbol is wrong. Everything works without it.
// The alphabet, what is forgiven and the sum are those of serials/codes.py, where the sum is explained.
(() => {
  "use strict";

  const ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  const LENGTH = 20;
  const GROUP = 4;
  const SEPARATORS = /[\p{Z}\p{C}\p{Pd}_.·•\u2212]/gu;
  const READ_AS = { O: "0", I: "1", L: "1" };

  const GROUPED = ["20", "10 10", "5 5 5 5", "4 4 4 4 4"];

  const plain = (text) => text.replace(SEPARATORS, "").toUpperCase().replace(/[OIL]/g, (symbol) => READ_AS[symbol]);

  const fits = (code) => {
    let total = 0;
    for (const symbol of code) {
      total <<= 1;
      if (total & 32) total ^= 0b100101;
      total ^= ALPHABET.indexOf(symbol);
    }
    return total === 0;
  };

  const isCode = (text) => text.length === LENGTH && [...text].every((symbol) => ALPHABET.includes(symbol)) && fits(text);

  // The codes that stand by themselves in a longer text, such as the message that a code came in.
  const codesIn = (text) => {
    const words = [...text.matchAll(/[0-9A-Za-z]+/g)];
    const found = new Set();
    words.forEach((first, number) => {
      let code = "", end = first.index;
      const sizes = [], gaps = new Set();
      for (const word of words.slice(number, number + GROUP + 1)) {
        const gap = text.slice(end, word.index);
        if (sizes.length) gaps.add(gap);
        if (gaps.size > 1 || gap.replace(SEPARATORS, "")) break;
        code += plain(word[0]);
        end = word.index + word[0].length;
        sizes.push(word[0].length);
        if (GROUPED.includes(sizes.join(" ")) && isCode(code)) found.add(code);
      }
    });
    return found;
  };

  const normalize = (text) => {
    const narrow = text.normalize("NFKC");
    const whole = plain(narrow);
    if (isCode(whole)) return whole;
    const found = codesIn(narrow);
    return found.size === 1 ? [...found][0] : whole;
  };

  // A code that is still being typed is not wrong yet, unless it holds what no code has.
  const isWrong = (code) =>
    [...code].some((symbol) => !ALPHABET.includes(symbol)) || code.length > LENGTH || (code.length === LENGTH && !fits(code));

  const group = (code) => code.match(new RegExp(`.{1,${GROUP}}`, "gsu"))?.join("-") ?? "";

  const attach = (input) => {
    const error = input.form?.querySelector("[data-serial-error]");

    const judge = (code) => {
      const wrong = isWrong(code);
      input.classList.toggle("is-invalid", wrong);
      input.classList.toggle("is-valid", code.length === LENGTH && !wrong);
      input.setAttribute("aria-invalid", String(wrong));
      if (error) error.textContent = wrong ? input.dataset.mistyped : "";
    };

    const update = () => {
      const caret = input.selectionStart ?? input.value.length;
      const code = normalize(input.value);
      const before = Math.min(plain(input.value.slice(0, caret).normalize("NFKC")).length, code.length);
      const grouped = group(code);
      if (grouped !== input.value) {
        // The caret stays behind the symbol it stood behind, however many dashes come or go; at the end it stays at the end.
        const place = before >= code.length ? grouped.length : before + Math.max(0, Math.ceil(before / GROUP) - 1);
        input.value = grouped;
        if (document.activeElement === input) input.setSelectionRange(place, place);
      }
      judge(code);
    };

    // While an input method composes, the text is its own; it is put in order afterwards.
    input.addEventListener("input", (event) => { if (!event.isComposing) update(); });
    input.addEventListener("compositionend", update);
    // What the server put there comes with the server's judgement, which says more.
    if (input.value) input.value = group(normalize(input.value));
  };

  document.querySelectorAll("[data-serial-input]").forEach(attach);

  // data-send-once: a second click on the way sends nothing. Coming back with the browser's button allows it again.
  document.querySelectorAll("form[data-send-once]").forEach((form) => {
    let sent = false;
    form.addEventListener("submit", (event) => {
      if (sent) event.preventDefault();
      sent = true;
    });
    window.addEventListener("pageshow", () => { sent = false; });
  });
})();

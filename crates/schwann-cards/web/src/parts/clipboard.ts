/**
 * Copies text. Over plain HTTP a browser gives pages no clipboard, so there the text is
 * selected in a field that nobody sees, and copied as a person would.
 */
export async function copyText(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "sr-only";
  // Within what has the focus: a dialog lets nothing outside of it be selected.
  const before = document.activeElement;
  (before?.closest('[role="dialog"]') ?? document.body).append(field);
  try {
    field.select();
    if (!document.execCommand("copy")) throw new Error("the browser copies nothing from this page");
  } finally {
    field.remove();
    if (before instanceof HTMLElement) before.focus();
  }
}

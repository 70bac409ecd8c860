import type { ComponentProps } from "react";
import { Icon, type IconName } from "./icons";

const LOOKS = {
  primary: "bg-accent text-accent-ink hover:brightness-110 border-transparent",
  plain: "bg-surface text-ink hover:bg-raised border-line",
  quiet: "text-muted hover:text-ink hover:bg-raised border-transparent",
  danger: "bg-surface text-danger hover:bg-raised border-danger",
};

interface Look {
  look?: keyof typeof LOOKS;
  icon?: IconName;
}

export function buttonClass(look: keyof typeof LOOKS = "plain", small = false): string {
  const size = small ? "size-8 justify-center" : "h-8 px-3";
  return `inline-flex items-center gap-1.5 rounded-md border text-sm font-medium whitespace-nowrap disabled:opacity-55 ${size} ${LOOKS[look]}`;
}

export function Button({
  look = "plain",
  icon,
  className = "",
  children,
  ...rest
}: ComponentProps<"button"> & Look) {
  return (
    <button type="button" className={`${buttonClass(look)} ${className}`} {...rest}>
      {icon && <Icon name={icon} />}
      {children}
    </button>
  );
}

/** A button that is only a drawing, with its name for those who do not see it. */
export function IconButton({
  icon,
  label,
  className = "",
  ...rest
}: ComponentProps<"button"> & { icon: IconName; label: string }) {
  return (
    <button
      type="button"
      className={`${buttonClass("quiet", true)} ${className}`}
      aria-label={label}
      title={label}
      {...rest}
    >
      <Icon name={icon} />
    </button>
  );
}

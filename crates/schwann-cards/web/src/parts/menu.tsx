import { DropdownMenu } from "radix-ui";
import type { ReactNode } from "react";
import { buttonClass } from "./button";
import { Icon, type IconName } from "./icons";

const ITEM =
  "flex w-full items-center gap-2 rounded px-2.5 py-1.5 text-left text-sm outline-none data-[highlighted]:bg-raised data-[disabled]:opacity-50";

export function Menu({
  label,
  icon = "more",
  shown,
  defaultOpen = false,
  children,
}: {
  label: string;
  icon?: IconName;
  /** What the button says beside its drawing. */
  shown?: ReactNode;
  defaultOpen?: boolean;
  children: ReactNode;
}) {
  return (
    <DropdownMenu.Root modal={false} defaultOpen={defaultOpen}>
      <DropdownMenu.Trigger
        className={buttonClass("quiet", shown === undefined)}
        {...(shown === undefined ? { "aria-label": label, title: label } : {})}
      >
        <Icon name={icon} />
        {shown}
      </DropdownMenu.Trigger>
      <DropdownMenu.Portal>
        <DropdownMenu.Content
          align="end"
          sideOffset={4}
          collisionPadding={8}
          className="z-50 max-h-[min(24rem,80dvh)] min-w-44 overflow-auto rounded-lg border border-line bg-surface p-1 text-ink shadow-lg"
        >
          {children}
        </DropdownMenu.Content>
      </DropdownMenu.Portal>
    </DropdownMenu.Root>
  );
}

export function MenuItem({
  onSelect,
  danger = false,
  disabled = false,
  children,
}: {
  onSelect: () => void;
  danger?: boolean;
  disabled?: boolean;
  children: ReactNode;
}) {
  return (
    <DropdownMenu.Item
      disabled={disabled}
      onSelect={onSelect}
      className={`${ITEM} ${danger ? "text-danger" : ""}`}
    >
      {children}
    </DropdownMenu.Item>
  );
}

/** On or off. */
export function MenuSwitch({
  checked,
  onChange,
  children,
}: {
  checked: boolean;
  onChange: (checked: boolean) => void;
  children: ReactNode;
}) {
  return (
    <DropdownMenu.CheckboxItem checked={checked} onCheckedChange={onChange} className={ITEM}>
      <span aria-hidden="true" className="w-4">
        {checked ? "✓" : ""}
      </span>
      {children}
    </DropdownMenu.CheckboxItem>
  );
}

/** One of several. */
export function MenuChoice<T extends string>({
  label,
  value,
  options,
  onChoose,
}: {
  label: string;
  value: T;
  options: readonly (readonly [T, string])[];
  onChoose: (value: T) => void;
}) {
  return (
    <DropdownMenu.RadioGroup aria-label={label} value={value} onValueChange={(next) => onChoose(next as T)}>
      <MenuText>{label}</MenuText>
      {options.map(([key, name]) => (
        <DropdownMenu.RadioItem key={key} value={key} className={ITEM}>
          <span aria-hidden="true">{key === value ? "●" : "○"}</span> {name}
        </DropdownMenu.RadioItem>
      ))}
    </DropdownMenu.RadioGroup>
  );
}

export function MenuLink({
  href,
  download = false,
  children,
}: {
  href: string;
  download?: boolean;
  children: ReactNode;
}) {
  return (
    <DropdownMenu.Item asChild className={ITEM}>
      <a href={href} {...(download ? { download: "" } : {})}>
        {children}
      </a>
    </DropdownMenu.Item>
  );
}

export function MenuLine() {
  return <DropdownMenu.Separator className="my-1 h-px bg-line" />;
}

export function MenuText({ children }: { children: ReactNode }) {
  return <DropdownMenu.Label className="px-2.5 py-1.5 text-xs text-muted">{children}</DropdownMenu.Label>;
}

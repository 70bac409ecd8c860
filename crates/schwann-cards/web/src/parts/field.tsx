import { type ComponentProps, type ReactNode, useId } from "react";

export const inputClass =
  "h-9 w-full rounded-md border border-line bg-surface px-2.5 text-sm text-ink placeholder:text-muted";

/** What is asked for, with its label, which knows it by an id. */
function useLabelled(label: string, asked: (id: string) => ReactNode) {
  const id = useId();
  return (
    <div className="grid gap-1">
      <label htmlFor={id} className="text-sm font-medium">
        {label}
      </label>
      {asked(id)}
    </div>
  );
}

export function Field({ label, ...rest }: ComponentProps<"input"> & { label: string }) {
  return useLabelled(label, (id) => <input id={id} className={inputClass} {...rest} />);
}

/** Several lines. */
export function Lines({ label, ...rest }: ComponentProps<"textarea"> & { label: string }) {
  const look = `${inputClass} h-auto py-1.5 font-mono`;
  return useLabelled(label, (id) => <textarea id={id} className={look} {...rest} />);
}

export function Choice<T extends string>({
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
  return useLabelled(label, (id) => (
    <select
      id={id}
      className={inputClass}
      value={value}
      onChange={(event) => onChoose(event.target.value as T)}
    >
      {options.map(([key, name]) => (
        <option key={key} value={key}>
          {name}
        </option>
      ))}
    </select>
  ));
}

import { AlertDialog, Dialog } from "radix-ui";
import { type ReactNode, useState } from "react";
import { useText } from "../text/text";
import { Button, buttonClass } from "./button";
import { Icon } from "./icons";
import { Failure } from "./notice";

const OVERLAY = "fixed inset-0 z-40 bg-black/45";
const PANEL =
  "fixed top-1/2 left-1/2 z-50 grid grid-cols-[minmax(0,1fr)] max-h-[90dvh] w-[min(30rem,calc(100vw-2rem))] -translate-x-1/2 -translate-y-1/2 gap-4 overflow-auto rounded-lg border border-line bg-surface p-5 text-ink shadow-xl";

export function PanelBox({
  onClose,
  title,
  children,
}: {
  onClose: () => void;
  title: string;
  children: ReactNode;
}) {
  const text = useText();
  return (
    <Dialog.Root open onOpenChange={(next) => !next && onClose()}>
      <Dialog.Portal>
        <Dialog.Overlay className={OVERLAY} />
        <Dialog.Content className={PANEL} aria-describedby={undefined}>
          <div className="flex items-center justify-between gap-3">
            <Dialog.Title className="text-lg font-semibold">{title}</Dialog.Title>
            <Dialog.Close className={buttonClass("quiet", true)} aria-label={text.close}>
              <Icon name="close" />
            </Dialog.Close>
          </div>
          {children}
        </Dialog.Content>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

export function SureBox({
  onClose,
  title,
  question,
  onSure,
}: {
  onClose: () => void;
  title: string;
  question: string;
  onSure: () => Promise<unknown>;
}) {
  const text = useText();
  const [error, setError] = useState<unknown>();
  const sure = () => {
    setError(undefined);
    onSure().then(onClose, setError);
  };
  return (
    <AlertDialog.Root open onOpenChange={(next) => !next && onClose()}>
      <AlertDialog.Portal>
        <AlertDialog.Overlay className={OVERLAY} />
        <AlertDialog.Content className={PANEL}>
          <AlertDialog.Title className="text-lg font-semibold">{title}</AlertDialog.Title>
          <AlertDialog.Description className="text-sm break-words text-muted">
            {question}
          </AlertDialog.Description>
          <Failure error={error} />
          <div className="flex justify-end gap-2">
            <AlertDialog.Cancel className={buttonClass("plain")}>{text.cancel}</AlertDialog.Cancel>
            <Button look="danger" onClick={sure}>
              {title}
            </Button>
          </div>
        </AlertDialog.Content>
      </AlertDialog.Portal>
    </AlertDialog.Root>
  );
}

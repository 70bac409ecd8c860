import { type ComponentProps, lazy, Suspense } from "react";

/** Dialogues are fetched when the first one opens; most visits open none. */
const LazyPanel = lazy(() => import("./dialog_box").then(({ PanelBox }) => ({ default: PanelBox })));
const LazySure = lazy(() => import("./dialog_box").then(({ SureBox }) => ({ default: SureBox })));

type Opened<T> = Omit<T, "open"> & { readonly open: boolean };

/** A dialogue with a title. */
export function Panel({ open, ...rest }: Opened<ComponentProps<typeof LazyPanel>>) {
  return open ? (
    <Suspense>
      <LazyPanel {...rest} />
    </Suspense>
  ) : null;
}

/** Asks before something that cannot be undone. */
export function Sure({ open, ...rest }: Opened<ComponentProps<typeof LazySure>>) {
  return open ? (
    <Suspense>
      <LazySure {...rest} />
    </Suspense>
  ) : null;
}

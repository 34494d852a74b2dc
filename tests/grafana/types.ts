import type * as newest from "@grafana/schema";
import type * as oldest from "@grafana/schema-oldest";

// In JSON stands the value of an enumeration, not its name.
type Json<T> = T extends string
  ? `${T}`
  : T extends number | boolean | null | undefined
    ? T
    : T extends (infer Item)[]
      ? Json<Item>[]
      : T extends object
        ? { [Key in keyof T]: Json<T[Key]> }
        : T;

// The types leave a panel's options and fields to its plugin, and a query to its data source.
interface Target {
  refId: string;
  datasource: { type: string; uid: string };
}
interface GraphiteTarget extends Target {
  target: string;
  textEditor: boolean;
}
interface InfluxTarget extends Target {
  query: string;
  rawQuery: boolean;
  resultFormat: "time_series";
  alias: string;
}
type Filled<Panel, Config, Field, Options> = Omit<Panel, "options" | "fieldConfig" | "targets"> & {
  type: "timeseries";
  options: Options;
  targets: (GraphiteTarget | InfluxTarget)[];
  fieldConfig: Omit<Config, "defaults"> & { defaults: Omit<Field, "custom"> & { custom: unknown } };
};

type NewestPanel = Filled<
  newest.Panel,
  newest.FieldConfigSource,
  newest.FieldConfig,
  newest.OptionsWithLegend & newest.OptionsWithTooltip
>;
// What this version requires and fills in itself.
type Default = "repeatDirection" | "style" | "transformations" | "transparent";
type OldestPanel = Filled<
  Omit<oldest.Panel, Default>,
  oldest.FieldConfigSource,
  oldest.FieldConfig,
  oldest.OptionsWithLegend & oldest.OptionsWithTooltip
>;

export type NewestBoard = Json<
  Omit<newest.Dashboard, "panels"> & { panels: (NewestPanel | newest.RowPanel)[] }
>;
// The variables of this version are typed as they are while a dashboard runs, not as they are saved.
export type OldestBoard = Json<
  Omit<oldest.Dashboard, "panels" | "templating" | Default> & {
    panels: (OldestPanel | oldest.RowPanel)[];
    templating: unknown;
  }
>;
export type NewestField = Json<newest.GraphFieldConfig>;
export type OldestField = Json<oldest.GraphFieldConfig>;

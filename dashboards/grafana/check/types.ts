// Dashboards as @grafana/schema describes them, with the options of each kind
// of panel that is used here, so that a misspelt option is an error.
import type * as grafana from '@grafana/schema';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// JSON holds the values of string enums, not their names.
type Json<T> = T extends string
  ? string extends T ? string : `${T}`
  : T extends (infer E)[] ? Json<E>[]
  : T extends object ? { [K in keyof T]: Json<T[K]> }
  : T;

type Known<T> = { [K in keyof T as string extends K ? never : K]: T[K] };
type Partly<T> = T extends (infer E)[] ? Partly<E>[] : T extends object ? { [K in keyof T]?: Partly<T[K]> } : T;

type Query = { refId: string; datasource: grafana.DataSourceRef; query: string };

type PanelOf<Type extends string, Options, Custom> =
  Omit<Json<grafana.Panel>, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
    type: Type;
    title: string;
    description: string;
    targets: Query[];
    options: Partly<Json<Options>>;
    fieldConfig: {
      defaults: Omit<Known<Json<grafana.FieldConfig>>, 'custom'> & { custom?: Partly<Json<Known<Custom>>> };
      overrides: Json<grafana.FieldConfigSource['overrides']>;
    };
  };

type Panel =
  | PanelOf<'stat', stat.Options, object>
  | PanelOf<'state-timeline', timeline.Options, timeline.FieldConfig>
  | PanelOf<'table', table.Options, table.FieldConfig>
  | PanelOf<'timeseries', timeseries.Options, timeseries.FieldConfig>;

export type Dashboard = Omit<Json<grafana.Dashboard>, 'panels' | 'annotations' | 'templating'> & {
  uid: string;
  title: string;
  panels: Panel[];
  templating: { list: Json<grafana.VariableModel>[] };
  annotations: { list: (Omit<Json<grafana.AnnotationQuery>, 'target'> & { target: Query })[] };
};

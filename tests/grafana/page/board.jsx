// The panels of a dashboard, drawn by Grafana's own component from data that the page brings.
import { createTheme, dateTime, FieldType, getDisplayProcessor } from '@grafana/data';
import { ThemeContext, TimeSeries } from '@grafana/ui';
import React from 'react';
import { createRoot } from 'react-dom/client';
import 'uplot/dist/uPlot.min.css';

const { board, mode } = window;
const theme = createTheme({ colors: { mode } });
const legend = { calcs: [], displayMode: 'list', placement: 'bottom', showLegend: true };
const style = {
  background: theme.colors.background.primary,
  color: theme.colors.text.primary,
  display: 'flex',
  flexWrap: 'wrap',
  fontFamily: 'sans-serif',
  fontSize: 13,
};

// The overrides of a panel, which Grafana applies before it draws.
function fieldConfig(panel, name) {
  const { defaults, overrides } = panel.fieldConfig;
  const found = { color: { mode: 'palette-classic' }, ...defaults, custom: { ...defaults.custom } };
  found.displayName = name;
  for (const { matcher, properties } of overrides) {
    for (const { id, value } of matcher.options === name ? properties : []) {
      const [first, second] = id.split('.');
      if (second) {
        found[first][second] = value;
      } else {
        found[first] = value;
      }
    }
  }
  return found;
}

function frame(panel, { name, points }, number) {
  const fields = [
    { config: {}, name: 'time', type: FieldType.time, values: points.map(([, at]) => at * 1000) },
    {
      config: fieldConfig(panel, name),
      name,
      state: { seriesIndex: number },
      type: FieldType.number,
      values: points.map(([value]) => value),
    },
  ];
  for (const field of fields) {
    field.display = getDisplayProcessor({ field, theme });
  }
  return { fields, length: points.length, refId: name };
}

function Panel({ panel }) {
  const [from, to] = [board.from, board.to].map((second) => dateTime(second * 1000));
  return (
    <div style={{ height: 300, overflow: 'hidden', padding: 8, width: 660 }}>
      <b>{panel.title}</b>
      <TimeSeries
        frames={panel.series.map((series, number) => frame(panel, series, number))}
        height={260}
        legend={legend}
        timeRange={{ from, raw: { from, to }, to }}
        timeZone="utc"
        width={640}
      />
    </div>
  );
}

createRoot(document.getElementById('root')).render(
  <ThemeContext.Provider value={theme}>
    <div style={style}>
      {board.panels.map((panel, number) => (
        <Panel key={number} panel={panel} />
      ))}
    </div>
  </ThemeContext.Provider>
);

package grafana

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/testpeer"
)

// dashboard is what the tests need of a dashboard's JSON.
type dashboard struct {
	UID         string
	Title       string
	Panels      []panel
	Templating  struct{ List []variable }
	Annotations struct {
		List []struct {
			Name       string
			Datasource datasource
			Target     target
		}
	}
}

type panel struct {
	ID         int
	Title      string
	Type       string
	Datasource datasource
	GridPos    struct{ X, Y, W, H int }
	Targets    []target
}

type target struct {
	RefID      string
	Datasource datasource
	Query      string
}

type datasource struct{ Type, UID string }

type variable struct {
	Name, Type, Query string
	Current           struct{ Value any }
}

// load reads all dashboards.
func load(t *testing.T) map[string]dashboard {
	t.Helper()
	paths, err := filepath.Glob("dashboards/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	all := map[string]dashboard{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		var d dashboard
		require.NoError(t, json.Unmarshal(data, &d), path)
		all[filepath.Base(path)] = d
	}
	return all
}

// queries are all of a dashboard's queries by what they are for.
func (d dashboard) queries() map[string]string {
	q := map[string]string{}
	for _, p := range d.Panels {
		for _, t := range p.Targets {
			q[fmt.Sprintf("%s %d %q, query %s", p.Type, p.ID, p.Title, t.RefID)] = t.Query
		}
	}
	for _, a := range d.Annotations.List {
		q[fmt.Sprintf("annotation %q", a.Name)] = a.Target.Query
	}
	return q
}

var unresolved = regexp.MustCompile(`\$\{\w+\}|\bv\.\w+`)

// asker runs queries as Grafana would: with macros and variables filled in.
type asker struct {
	t      *testing.T
	db     *testpeer.InfluxDB
	macros *strings.Replacer
}

func newAsker(t *testing.T, db *testpeer.InfluxDB, from, to time.Time) asker {
	return asker{t, db, strings.NewReplacer(
		"v.timeRangeStart", from.UTC().Format(time.RFC3339Nano),
		"v.timeRangeStop", to.UTC().Format(time.RFC3339Nano),
		"v.windowPeriod", "2s",
		"v.defaultBucket", `"`+db.Bucket+`"`,
	)}
}

// ask returns the rows of a query.
func (a asker) ask(query string, values map[string]string) []map[string]any {
	a.t.Helper()
	query = a.macros.Replace(query)
	for k, v := range values {
		query = strings.ReplaceAll(query, "${"+k+"}", v)
	}
	require.NotRegexp(a.t, unresolved, query, "a variable that the dashboard does not have")
	return a.db.Query(query)
}

// combinations lists what a dashboard's variables can be set to: every value
// of those that are queried, the preset of others.
func (a asker) combinations(d dashboard) []map[string]string {
	a.t.Helper()
	preset := map[string]string{}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			preset[v.Name] = v.Current.Value.(string)
		}
	}
	sets := []map[string]string{preset}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		var next []map[string]string
		for _, set := range sets {
			for _, row := range a.ask(v.Query, set) {
				with := map[string]string{v.Name: row["_value"].(string)}
				for k, val := range set {
					with[k] = val
				}
				next = append(next, with)
			}
		}
		require.NotEmpty(a.t, next, "variable %s has no values", v.Name)
		sets = next
	}
	return sets
}

// everyQueryReturnsData fails for each query that returns nothing with any
// setting of its dashboard's variables. It tells how many queries it ran.
func everyQueryReturnsData(t *testing.T, db *testpeer.InfluxDB, from, to time.Time) {
	t.Helper()
	for file, d := range load(t) {
		t.Run(file, func(t *testing.T) {
			a := newAsker(t, db, from, to)
			sets := a.combinations(d)
			for what, query := range d.queries() {
				found := false
				for _, set := range sets {
					if rows := a.ask(query, set); len(rows) > 0 {
						found = true
						if strings.Contains(what, "timeseries") || strings.Contains(what, "state-timeline") {
							inOrder(t, what, rows)
						}
						break
					}
				}
				require.True(t, found, "%s: no data in %d settings of the variables\n%s", what, len(sets), query)
			}
			t.Logf("%d queries return data", len(d.queries()))
		})
	}
}

// inOrder checks that the times of each table ascend: Grafana draws them as
// they come.
func inOrder(t *testing.T, what string, rows []map[string]any) {
	t.Helper()
	last := map[any]time.Time{}
	for _, row := range rows {
		at := row["_time"].(time.Time)
		require.False(t, at.Before(last[row["table"]]), "%s: the times of a line do not ascend", what)
		last[row["table"]] = at
	}
}

func TestDashboardsHoldTogether(t *testing.T) {
	source := struct {
		Datasources []struct {
			UID, Type string
			JSONData  struct{ Version string } `yaml:"jsonData"`
		}
	}{}
	data, err := os.ReadFile("provisioning/datasources/penstock.yaml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(data, &source))
	require.Len(t, source.Datasources, 1)
	require.Equal(t, "Flux", source.Datasources[0].JSONData.Version)
	provider := struct{ Providers []struct{ Type string } }{}
	data, err = os.ReadFile("provisioning/dashboards/penstock.yaml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(data, &provider))
	require.Len(t, provider.Providers, 1)

	want := datasource{source.Datasources[0].Type, source.Datasources[0].UID}
	uids := map[string]bool{}
	for file, d := range load(t) {
		require.False(t, uids[d.UID], "%s: uid %s is taken", file, d.UID)
		uids[d.UID] = true
		var taken [200][24]string
		ids := map[int]bool{}
		for _, p := range d.Panels {
			where := fmt.Sprintf("%s: panel %q", file, p.Title)
			require.Equal(t, want, p.Datasource, where)
			require.False(t, ids[p.ID], "%s: id %d is taken", where, p.ID)
			ids[p.ID] = true
			require.NotEmpty(t, p.Targets, where)
			for _, q := range p.Targets {
				require.Equal(t, want, q.Datasource, where)
			}
			require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, where)
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
					require.Empty(t, taken[y][x], "%s lies on another panel", where)
					taken[y][x] = p.Title
				}
			}
		}
		for _, v := range d.Annotations.List {
			require.Equal(t, want, v.Datasource, "%s: annotation %s", file, v.Name)
		}
	}
	for file, d := range load(t) { // links name dashboards that exist
		for what, link := range d.queries() {
			for _, m := range regexp.MustCompile(`/d/([\w-]+)`).FindAllStringSubmatch(link, -1) {
				require.True(t, uids[m[1]], "%s %s: no dashboard %s", file, what, m[1])
			}
		}
	}
}

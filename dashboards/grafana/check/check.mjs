// Writes each dashboard as a TypeScript literal of the type Dashboard and has
// the compiler check it: imported JSON would lose the literal types.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';

const from = new URL('../dashboards/', import.meta.url);
const out = new URL('build/', import.meta.url);
rmSync(out, { recursive: true, force: true });
mkdirSync(out);
const files = readdirSync(from).filter((f) => f.endsWith('.json'));
for (const f of files) {
  const json = readFileSync(new URL(f, from), 'utf8');
  JSON.parse(json);
  writeFileSync(new URL(f.replace('.json', '.ts'), out), `import type { Dashboard } from '../types';\nexport const dashboard: Dashboard = ${json};\n`);
}
const tsc = spawnSync('npx', ['--no-install', 'tsc', '--project', '.'], { stdio: 'inherit' });
if (tsc.status !== 0) process.exit(1);
console.log(`${files.length} dashboards are as @grafana/schema has them`);

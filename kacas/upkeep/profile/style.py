"""How the report looks, in light and in dark."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--back:#fbfbfa;--card:#fff;--text:#1d232b;--soft:#5c6670;--line:#dfe3e7;
--blue:#2f6fb0;--teal:#2a9d8f;--grey:#a9b3bd;--orange:#d9772b;--good:#2c8a57;--bad:#c2413b}
@media(prefers-color-scheme:dark){:root{--back:#14181d;--card:#1c2229;--text:#e6eaee;--soft:#9aa6b2;--line:#323a44;
--blue:#6aa9e6;--teal:#4cc3b3;--grey:#5b6672;--orange:#f0975a;--good:#59c189;--bad:#ec7b74}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:860px;margin:0 auto;padding:28px 20px 60px}
h1{margin:0;font-size:26px}h2{margin:0 0 6px;font-size:18px}h3{margin:18px 0 4px;font-size:14px;color:var(--soft)}
header p,section>p{margin:2px 0 10px;color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin-top:18px}
.cards{display:flex;flex-wrap:wrap;gap:10px;margin:16px 0}
.card{flex:1 1 140px;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.card span,.card small{display:block;color:var(--soft);font-size:13px}.card b{display:block;font-size:21px;white-space:nowrap}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:10px 0 0;font-size:14px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
ol.advice{margin:0;padding-left:22px}.advice li{margin:0 0 14px}.advice p{margin:2px 0}
.advice b{overflow-wrap:anywhere}.advice small{color:var(--soft)}
svg{display:block;width:100%;height:auto;margin-top:6px;overflow:visible}
svg text{font:13px system-ui,-apple-system,"Segoe UI",sans-serif;fill:var(--text)}
svg .label{text-anchor:end}svg .value{text-anchor:end;fill:var(--soft);font-variant-numeric:tabular-nums}
svg .axis{text-anchor:middle;fill:var(--soft);font-size:11px}
svg .grid{stroke:var(--line)}svg .join{stroke:var(--grey);stroke-width:3}
.plain,.stage{fill:var(--blue)}.load{fill:var(--teal)}.sum{fill:var(--grey)}.wall{fill:var(--orange)}
.better{fill:var(--good)}.worse{fill:var(--bad)}
circle.encode{fill:var(--blue)}circle.decode{fill:var(--card);stroke:var(--teal);stroke-width:2.5}
.legend{margin:12px 0 0;color:var(--soft);font-size:13px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:50%;margin:0 6px 0 8px;vertical-align:-1px}
.legend i.encode{background:var(--blue)}.legend i.decode{border:2.5px solid var(--teal)}
summary{cursor:pointer;color:var(--soft)}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th{text-align:left;color:var(--soft);font-weight:500}
th,td{padding:3px 10px 3px 0;border-bottom:1px solid var(--line)}
td.number{font-variant-numeric:tabular-nums;white-space:nowrap}
@media print{body{background:#fff}section,.card{break-inside:avoid}}
"""

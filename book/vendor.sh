#!/usr/bin/env bash
# Fetch the third-party web assets of the book, at pinned versions, into book/_static/vendor.
set -euo pipefail
cd "$(dirname "$0")/_static"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent mathjax@3.2.2 && tar xzf mathjax-3.2.2.tgz)
mkdir -p vendor/mathjax/output/chtml/fonts
cp "$work/package/es5/tex-chtml.js" "$work/package/LICENSE" vendor/mathjax/
cp -r "$work/package/es5/output/chtml/fonts/woff-v2" vendor/mathjax/output/chtml/fonts/
# The classic script: the ES module does not load from file://.
(cd "$work" && rm -rf package && npm pack --silent mermaid@11.12.2 && tar xzf mermaid-11.12.2.tgz)
mkdir -p vendor/mermaid
cp "$work/package/dist/mermaid.min.js" "$work/package/LICENSE" vendor/mermaid/
(cd vendor && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum > SHA256SUMS)

#!/usr/bin/env bash
# Fetch the third-party web assets of the book, at pinned versions, into book/_static/vendor, and cut
# the Chinese font to the characters in use. Needs npm, and fontTools in $PYTHON (make's environment has it).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-$root/.venv/bin/python}
cd "$root/book/_static"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() { # NAME@VERSION, unpacked to $work/package; npm checks the registry's hash
  (cd "$work" && rm -rf package && tar xzf "$(npm pack --silent "$1")")
}

fetch mathjax@3.2.2
mkdir -p vendor/mathjax/output/chtml/fonts
cp "$work/package/es5/tex-chtml.js" "$work/package/LICENSE" vendor/mathjax/
cp -r "$work/package/es5/output/chtml/fonts/woff-v2" vendor/mathjax/output/chtml/fonts/

# The classic script: the ES module does not load from file://.
fetch mermaid@11.12.2
mkdir -p vendor/mermaid
cp "$work/package/dist/mermaid.min.js" "$work/package/LICENSE" vendor/mermaid/

mkdir -p vendor/fonts
for name in source-sans-3 source-serif-4; do
  fetch "@fontsource-variable/$name@5.3.1"
  cp "$work/package/files/$name-latin-wght-normal.woff2" "$work/package/files/$name-latin-wght-italic.woff2" vendor/fonts/
  cp "$work/package/LICENSE" "vendor/fonts/LICENSE-$name"
done

# In the package: figures draw with it, pages load the same file.
fetch @expo-google-fonts/noto-sans-sc@0.4.3
"$PYTHON" -m fontTools.subset "$work/package/400Regular/NotoSansSC_400Regular.ttf" \
  --text="$("$PYTHON" "$root/book/glyphs.py")" --layout-features= --no-hinting \
  --output-file="$root/topk_lib/show/static/noto-sans-sc.ttf"
cp "$work/package/LICENSE_FONT" "$root/LICENSES/OFL-1.1.txt"

(cd vendor && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum > SHA256SUMS)

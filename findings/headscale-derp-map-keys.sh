#!/bin/sh
# github.com/juanfont/headscale v0.28.0: no text is a DERP map both at an address and in a file, and one that is not may pass silently.
#
# hscontrol/derp/derp.go decodes both into tailcfg.DERPMap: what `derp.urls` names by encoding/json, what `derp.paths` names by yaml.v3,
# which knows the struct's fields by their names in lower case only and passes over all others. JSON is YAML, so Tailscale's own form of
# a map ("Regions", "RegionID", …), saved to a file, is read without an error and has no region. With keys in lower case its regions are
# found, but their ids, which are texts in JSON, are refused. Seen: Tailscale's form by address 1 region, by file 0 and no error; the same
# in lower case by address 1 region, by file `cannot unmarshal !!str `900` into int`; lower case and id without quotes, by file 1 region.
#
# Needs Go 1.26 and the Go module proxy. Fails when one of the five is otherwise.
set -eu
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"
source=$(go mod download -json github.com/juanfont/headscale@v0.28.0 | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
cp -r "$source" headscale
chmod -R u+w headscale
cd headscale
mkdir finding
cat > finding/main.go <<'GO'
package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/juanfont/headscale/hscontrol/derp"
	"github.com/juanfont/headscale/hscontrol/types"
)

const asTailscale = `{"Regions": {"900": {"RegionID": 900, "RegionCode": "x", "RegionName": "X", "Nodes": [
	{"Name": "900a", "RegionID": 900, "HostName": "192.0.2.1", "IPv4": "192.0.2.1", "DERPPort": 20000}]}}}`

func count(config types.DERPConfig) string {
	found, err := derp.GetDERPMap(config)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d regions, no error", len(found.Regions))
}

func byAddress(text string) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }))
	defer server.Close()
	address, _ := url.Parse(server.URL)
	return count(types.DERPConfig{URLs: []url.URL{*address}})
}

func byFile(text string) string {
	folder, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "map.yaml")
	os.WriteFile(path, []byte(text), 0o600)
	return count(types.DERPConfig{Paths: []string{path}})
}

func main() {
	inLowerCase := strings.ToLower(asTailscale)
	isWrong := false
	for _, one := range []struct{ what, seen, expected string }{
		{"as Tailscale writes it, by address", byAddress(asTailscale), "1 regions, no error"},
		{"as Tailscale writes it, by file", byFile(asTailscale), "0 regions, no error"},
		{"in lower case, by address", byAddress(inLowerCase), "1 regions, no error"},
		{"in lower case, by file", byFile(inLowerCase), "cannot unmarshal !!str `900` into int"},
		{"in lower case, id without quotes, by file", byFile(strings.Replace(inLowerCase, `"900"`, "900", 1)), "1 regions, no error"},
	} {
		fmt.Printf("%s: %s\n", one.what, one.seen)
		isWrong = isWrong || !strings.Contains(one.seen, one.expected)
	}
	if isWrong {
		os.Exit(1)
	}
}
GO
GOFLAGS=-buildvcs=false go run ./finding

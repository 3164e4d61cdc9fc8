//go:build tool

// Package tool pins h2spec and what it is built from, by version and checksum.
package tool

import _ "github.com/summerwind/h2spec/cmd/h2spec"

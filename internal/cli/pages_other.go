//go:build !linux

package cli

func dropStartPages() {}

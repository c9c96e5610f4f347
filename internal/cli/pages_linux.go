package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// dropStartPages gives back the pages of code and constants that only the start
// needed: tens of megabytes, to a small gateway. What is used again is mapped
// again, from the page cache. It leaves alone what may be written to, and what
// has been (the linker's relocations): mappings with pages that no file has.
func dropStartPages() {
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer maps.Close() //nolint:errcheck // read only
	var from, to uintptr
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Text()
		switch key, value, _ := strings.Cut(line, ":"); {
		case !strings.HasSuffix(strings.Fields(line + " ")[0], ":"): // 00400000-0231d000 r-xp 00000000 fe:00 5767176 /usr/bin/penstock
			f := strings.Fields(line)
			if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err != nil || len(f) < 6 || f[5][0] != '/' || f[1] != "r-xp" && f[1] != "r--p" {
				from = 0
			}
		case (key == "Anonymous" || key == "Swap") && strings.TrimSpace(value) != "0 kB":
			from = 0
		case key == "VmFlags" && from != 0: // the last line of a mapping
			// An error means that the pages stay, no more.
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED)
		}
	}
}

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// canInstallPackages tells whether this is root on Debian or one of its kin.
func canInstallPackages() bool {
	_, err := exec.LookPath("apt-get")
	return err == nil && os.Geteuid() == 0
}

// installPackage installs the first of the packages that the system offers.
func (s *stack) installPackage(ctx context.Context, names ...string) error {
	s.packages.Lock() // servers are installed side by side, apt-get is not
	defer s.packages.Unlock()
	apt := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=120"}, args...)...) //nolint:gosec // the packages that servers name
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %v: %w\n%s", args, err, lastLines(string(output), 10))
		}
		return nil
	}
	var err error
	for _, name := range names {
		s.report.line("installing the package %s", name)
		install := []string{"install", "-y", "--no-install-recommends", name}
		if err = apt(install...); err == nil {
			return nil
		}
		// The package list may be older than the archive.
		if updated := apt("update"); updated != nil {
			return updated
		}
		if err = apt(install...); err == nil {
			return nil
		}
	}
	return err
}

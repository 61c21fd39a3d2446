package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

const oldestJava = 17

// jdk is a Java that the servers' user can run. Kafka needs no more than a
// runtime; Elasticsearch's launcher is compiled once, which takes javac.
type jdk struct {
	home    string
	version int
}

func (j *jdk) java() string  { return filepath.Join(j.home, "bin", "java") }
func (j *jdk) javac() string { return filepath.Join(j.home, "bin", "javac") }

var (
	javaHome    = regexp.MustCompile(`(?m)^\s*java\.home = (.+)$`)
	javaVersion = regexp.MustCompile(`(?m)^\s*java\.specification\.version = (?:1\.)?(\d+)$`)
)

// findJava looks in JAVA_HOME, in PATH and where Linux distributions put their
// JDKs. Where there is none, root on Debian installs one.
func (s *stack) findJava() (*jdk, error) {
	if found := s.lookJava(); found != nil {
		return found, nil
	}
	if !canInstallPackages() {
		return nil, fmt.Errorf("no JDK %d or later in JAVA_HOME, PATH or /usr/lib/jvm: install one (Debian, Ubuntu: apt-get install openjdk-17-jdk-headless) or set JAVA_HOME", oldestJava)
	}
	if err := s.installPackage(context.Background(), "openjdk-17-jdk-headless", "default-jdk-headless"); err != nil {
		return nil, fmt.Errorf("install a JDK: %w", err)
	}
	if found := s.lookJava(); found != nil {
		return found, nil
	}
	return nil, errors.New("the package manager installed a JDK, but none is found; set JAVA_HOME")
}

func (s *stack) lookJava() *jdk {
	var candidates []string
	if home := os.Getenv("JAVA_HOME"); home != "" {
		candidates = append(candidates, filepath.Join(home, "bin", "java"))
	}
	if java, err := exec.LookPath("java"); err == nil {
		candidates = append(candidates, java)
	}
	installed, _ := filepath.Glob("/usr/lib/jvm/*/bin/java")
	for _, java := range append(candidates, installed...) {
		// Run as the servers' user: a JDK in root's home is of no use to it.
		cmd := s.command(context.Background(), command{path: java, args: []string{"-XshowSettings:properties", "-version"}, dir: "/"})
		output, err := cmd.CombinedOutput()
		if err != nil {
			continue
		}
		if found := parseJava(string(output)); found != nil && found.version >= oldestJava {
			if _, err := os.Stat(found.javac()); err == nil {
				return found
			}
		}
	}
	return nil
}

// parseJava reads the output of java -XshowSettings:properties.
func parseJava(settings string) *jdk {
	home, version := javaHome.FindStringSubmatch(settings), javaVersion.FindStringSubmatch(settings)
	if home == nil || version == nil {
		return nil
	}
	number, err := strconv.Atoi(version[1])
	if err != nil {
		return nil
	}
	return &jdk{home: home[1], version: number}
}

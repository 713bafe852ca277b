package wrap

import (
	"fmt"
	"go/scanner"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// limit is what a wrapping has to be shorter than, in lines of code: blank
// lines and comments do not count, nor do imports, which editors write.
const limit = 15

// source is a file split into what was there and what gatemesh adds.
type source struct {
	was   string
	added []string // lines of code, without imports
	shown []string // the same as they stand in the README, with their comments
}

func read(t *testing.T, file string) (s source) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var was strings.Builder
	inside, instead, imports, indent := false, false, false, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		code := strings.TrimSpace(line)
		switch {
		case code == "import (":
			imports = true
		case imports && code == ")":
			imports = false
		}
		switch {
		case code == "// gatemesh: begin":
			require.False(t, inside, file)
			inside, indent = true, line[:len(line)-len(code)]
			if !imports && len(s.shown) > 0 {
				s.shown = append(s.shown, "")
			}
		case code == "// gatemesh: end":
			require.True(t, inside, file)
			inside = false
		case code == "// gatemesh: instead of":
			instead = true
		case instead && strings.HasPrefix(code, "// "): // a line that had to go
			was.WriteString(strings.TrimPrefix(code, "// ") + "\n")
			instead = false
		case inside:
			if !imports {
				s.shown = append(s.shown, strings.TrimPrefix(line, indent))
				if code != "" && !strings.HasPrefix(code, "//") {
					s.added = append(s.added, code)
				}
			}
		default:
			was.WriteString(line + "\n")
		}
	}
	require.False(t, inside || instead, file)
	s.was = was.String()
	return s
}

// tokens returns the code of a file without its layout: no comments, no
// trailing commas, and every form called Before.
func tokens(text []byte) (all []string) {
	var s scanner.Scanner
	files := token.NewFileSet()
	s.Init(files.AddFile("", files.Base(), len(text)), text, nil, 0)
	for {
		switch _, tok, lit := s.Scan(); {
		case tok == token.EOF:
			return all
		case tok == token.SEMICOLON && lit == "\n":
		case tok == token.IDENT && strings.HasPrefix(lit, "After") && lit != "AfterFunc":
			all = append(all, "Before")
		case (tok == token.RPAREN || tok == token.RBRACE) && len(all) > 0 && all[len(all)-1] == ",":
			all[len(all)-1] = tok.String()
		case lit != "":
			all = append(all, lit)
		default:
			all = append(all, tok.String())
		}
	}
}

func examples(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*/after*.go")
	require.NoError(t, err)
	require.Len(t, files, 10)
	return files
}

// TestOnlyAdded: but for the marked lines, after is before.
func TestOnlyAdded(t *testing.T) {
	for _, file := range examples(t) {
		before, err := os.ReadFile(filepath.Join(filepath.Dir(file), "before.go"))
		require.NoError(t, err)
		assert.Equal(t, tokens(before), tokens([]byte(read(t, file).was)), file)
	}
	for _, file := range []string{"service.go", "before.go"} { // what was there knows nothing of us
		all, err := filepath.Glob("*/" + file)
		require.NoError(t, err)
		require.Len(t, all, 7)
		for _, name := range all {
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			alone := strings.ReplaceAll(string(text), "github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness", "")
			assert.NotContains(t, alone, "github.com/gatemesh-go/gatemesh", name)
		}
	}
}

// TestFewLines: wrapping is short, and the README says how short.
func TestFewLines(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for _, file := range examples(t) {
		added := read(t, file).added
		assert.NotEmpty(t, added, file)
		assert.Less(t, len(added), limit, "%s:\n%s", file, strings.Join(added, "\n"))
		assert.Contains(t, string(readme), fmt.Sprintf("| [`%s`](%[1]s) | %d |", file, len(added)))
	}
}

// TestReadme: the README shows the lines that compile.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for _, file := range examples(t) {
		shown := strings.Join(read(t, file).shown, "\n")
		assert.Contains(t, string(readme), "```go\n"+strings.Trim(shown, "\n")+"\n```\n", file)
	}
}

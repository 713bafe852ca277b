// Package match compares the parts of calls with what a configuration says
// about them. What it compiles is immutable and safe for concurrent use.
package match

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// Kind says how a value is compared.
type Kind uint8

// The kinds.
const (
	Exact   Kind = iota // the whole value
	Prefix              // how it begins
	Regex               // a regular expression of RE2 for the whole value
	Present             // any value
)

// Value is a compiled comparison. The zero Value holds for the empty string.
type Value struct {
	kind Kind
	text string
	re   *regexp.Regexp
}

// NewValue compiles a comparison. The error says what is wrong without naming
// the field.
func NewValue(kind Kind, text string) (v Value, err error) {
	v = Value{kind: kind, text: text}
	switch kind {
	case Exact, Prefix:
	case Regex:
		v.re, err = Compile(text, false)
	case Present:
		if text != "" {
			err = errors.New("must be empty where any value will do")
		}
	default:
		err = fmt.Errorf("is compared in the unknown way %d", kind)
	}
	return v, err
}

// Holds reports whether s is such a value.
func (v *Value) Holds(s string) bool {
	switch v.kind {
	case Exact:
		return s == v.text
	case Prefix:
		return strings.HasPrefix(s, v.text)
	case Regex:
		return v.re.MatchString(s)
	case Present:
		return true
	}
	return false
}

// The limits of regular expressions. The time that one takes is proportional to
// the product of its program and the value, which the client chooses.
const (
	MaxRegex   = 4096 // bytes
	MaxProgram = 4096 // instructions
)

// Compile compiles a regular expression of RE2 that has to match the whole of
// a value, with foldCase without regard to case.
func Compile(pattern string, foldCase bool) (*regexp.Regexp, error) {
	if len(pattern) > MaxRegex {
		return nil, fmt.Errorf("is a regular expression of more than %d bytes", MaxRegex)
	}
	// By itself first: "a)(b" must not become whole by what is put around it.
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, err
	}
	if program, err := syntax.Compile(tree.Simplify()); err != nil || len(program.Inst) > MaxProgram {
		return nil, fmt.Errorf("is a regular expression that compiles to more than %d instructions", MaxProgram)
	}
	flags := "(?:"
	if foldCase {
		flags = "(?i:"
	}
	return regexp.Compile(`\A` + flags + pattern + `)\z`)
}

// Cost returns how many instructions a pattern of [Compile] has, each of which
// may have to be looked at for each byte of a value.
func Cost(pattern string) int {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return MaxProgram
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return MaxProgram
	}
	return len(program.Inst)
}

// Literal returns how every value begins that a pattern of [Compile] matches as
// a whole, as far as that is one text. With foldCase the text is in lower case.
func Literal(pattern string, foldCase bool) string {
	flags := syntax.Flags(syntax.Perl)
	if foldCase {
		flags |= syntax.FoldCase
	}
	tree, err := syntax.Parse(pattern, flags)
	if err != nil {
		return ""
	}
	text, _ := literal(tree, foldCase)
	if foldCase {
		text = Lower(text)
	}
	return text
}

// literal returns the text that what tree matches begins with, and whether that
// is all it matches.
func literal(tree *syntax.Regexp, foldCase bool) (text string, whole bool) {
	switch tree.Op {
	case syntax.OpLiteral:
		if tree.Flags&syntax.FoldCase != 0 && !foldCase {
			return "", false
		}
		return string(tree.Rune), true
	case syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpEndText, syntax.OpBeginLine, syntax.OpEndLine,
		syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return "", true // they may forbid a match, and never lengthen it
	case syntax.OpCapture:
		return literal(tree.Sub[0], foldCase)
	case syntax.OpPlus:
		text, _ = literal(tree.Sub[0], foldCase)
		return text, false
	case syntax.OpConcat:
		for _, sub := range tree.Sub {
			t, all := literal(sub, foldCase)
			text += t
			if !all {
				return text, false
			}
		}
		return text, true
	}
	return "", false
}

// Lower returns s with its ASCII letters in lower case. It allocates only if
// there are any in upper case.
func Lower(s string) string {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			out := []byte(s)
			for ; i < len(out); i++ {
				out[i] = lower(out[i])
			}
			return string(out)
		}
	}
	return s
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

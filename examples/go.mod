module github.com/gatemesh-go/gatemesh/examples

go 1.26.0

replace github.com/gatemesh-go/gatemesh => ../

require github.com/gatemesh-go/gatemesh v0.0.0-00010101000000-000000000000

require (
	github.com/golang-jwt/jwt/v5 v5.3.1 // indirect
	golang.org/x/time v0.16.0 // indirect
)

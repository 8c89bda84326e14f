package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certLife is how long certificates are valid: longer than any test or demo, which make new ones each time.
const certLife = 7 * 24 * time.Hour

// authority signs every certificate of one cluster: servers and clients alike, since all of them are ours.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// keyPair is a certificate and its private key, both PEM.
type keyPair struct {
	cert, key []byte
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := certTemplate(pkix.Name{CommonName: "stoker-test-cluster"})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, pem: encodePEM("CERTIFICATE", der)}, nil
}

// serviceIP is the address of the Service "kubernetes": the first one of the range that the API server gives out.
func serviceIP() net.IP { return net.IPv4(10, 0, 0, 1) }

// server signs a certificate for a server on loopback, or reached by pods through the Service "kubernetes". It is good
// for clients too: etcd uses it as a client of itself. names are others by which it is known.
func (a *authority) server(names ...string) (keyPair, error) {
	template, err := certTemplate(pkix.Name{CommonName: "127.0.0.1"})
	if err != nil {
		return keyPair{}, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames = append([]string{"localhost", "kubernetes.default.svc"}, names...)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), serviceIP()}
	return a.sign(template)
}

// client signs a certificate that makes its holder the user name, in the groups given.
func (a *authority) client(name string, groups ...string) (keyPair, error) {
	template, err := certTemplate(pkix.Name{CommonName: name, Organization: groups})
	if err != nil {
		return keyPair{}, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.sign(template)
}

func (a *authority) sign(template *x509.Certificate) (keyPair, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return keyPair{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{cert: encodePEM("CERTIFICATE", der), key: keyPEM}, nil
}

func certTemplate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(certLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}, nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, encodePEM("EC PRIVATE KEY", der), nil
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// pki is what this package itself needs of the keys.
type pki struct {
	authority *authority
	admin     keyPair
}

// Names of the files that writePKI makes in its directory.
const (
	caFile         = "ca.crt"
	serverCertFile = "server.crt"
	serverKeyFile  = "server.key"
	saPublicFile   = "service-accounts.pub"
	saPrivateFile  = "service-accounts.key"
	proxyCertFile  = "front-proxy.crt"
	proxyKeyFile   = "front-proxy.key"
)

// Users that are certificates only.
const (
	adminUser      = "admin"
	frontProxyUser = "front-proxy"
)

// writePKI makes a new authority, the servers' certificate and the key that signs service accounts' tokens, and
// writes what the components read into dir.
func writePKI(dir string) (*pki, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, fmt.Errorf("make the certificate authority: %w", err)
	}
	server, err := ca.server()
	if err != nil {
		return nil, fmt.Errorf("sign the servers' certificate: %w", err)
	}
	// system:masters is the one group that authorization never asks about.
	admin, err := ca.client(adminUser, "system:masters")
	if err != nil {
		return nil, fmt.Errorf("sign the administrator's certificate: %w", err)
	}
	saKey, saPrivate, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make the service accounts' key: %w", err)
	}
	saPublic, err := x509.MarshalPKIXPublicKey(saKey.Public())
	if err != nil {
		return nil, fmt.Errorf("encode the service accounts' key: %w", err)
	}
	frontProxy, err := ca.client(frontProxyUser)
	if err != nil {
		return nil, fmt.Errorf("sign the front proxy's certificate: %w", err)
	}
	for name, content := range map[string][]byte{
		caFile:         ca.pem,
		serverCertFile: server.cert,
		serverKeyFile:  server.key,
		saPublicFile:   encodePEM("PUBLIC KEY", saPublic),
		saPrivateFile:  saPrivate,
		proxyCertFile:  frontProxy.cert,
		proxyKeyFile:   frontProxy.key,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, fmt.Errorf("write the cluster's keys: %w", err)
		}
	}
	return &pki{authority: ca, admin: admin}, nil
}

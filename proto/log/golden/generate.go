// Writes the golden files of this folder with the Go project's own transparency log (golang.org/x/mod/sumdb, 0.7.0) and
// ed25519, none of which shares code with ours: `go run generate.go` here, with that module at hand (Debian has it as
// golang-golang-x-mod-dev). Entry number i of the tree is the text "entry <i>".
package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const size = 66000

type store []tlog.Hash

func (s store) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, s[i])
	}
	return out, nil
}

// A proof: how many hashes, and SHA-256 of them in a row.
func list(hashes []tlog.Hash) string {
	sum := sha256.New()
	for _, h := range hashes {
		sum.Write(h[:])
	}
	return fmt.Sprintf("%d %x", len(hashes), sum.Sum(nil))
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// A key as notes have it: SHA-256(name || "\n" || kind || public)[:4].
func keyID(name string, kind byte, public []byte) []byte {
	sum := sha256.Sum256(append([]byte(name+"\n"+string([]byte{kind})), public...))
	return sum[:4]
}

func main() {
	var hashes store
	for i := int64(0); i < size; i++ {
		hashes = append(hashes, must(tlog.StoredHashes(i, []byte(fmt.Sprintf("entry %d", i)), hashes))...)
	}
	var out strings.Builder
	sizes := []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 255, 256, 257, 300, 511, 512, 513, 1000, 1999, 2000, 65535, 65536, 65537, size}
	for _, n := range sizes {
		root := must(tlog.TreeHash(n, hashes))
		fmt.Fprintf(&out, "root %d %x\n", n, root[:])
		for _, i := range []int64{0, n / 3, n - 1} {
			fmt.Fprintf(&out, "inclusion %d %d %s\n", n, i, list(must(tlog.ProveRecord(n, i, hashes))))
		}
		for _, m := range []int64{1, n / 3, n / 2, n - 1, 256, 512} {
			if m > 0 && m <= n {
				fmt.Fprintf(&out, "consistency %d %d %s\n", m, n, list(must(tlog.ProveTree(n, m, hashes))))
			}
		}
	}
	for _, tile := range tlog.NewTiles(8, 0, size) {
		// The tree's own tiles, without the narrower ones that smaller trees have in their place.
		if tile.W < 256 && tile.W != size>>(8*tile.L)%256 {
			continue
		}
		sum := sha256.Sum256(must(tlog.ReadTileData(tile, hashes)))
		// C2SP leaves the height out of the path.
		fmt.Fprintf(&out, "tile %s %x\n", strings.Replace(tile.Path(), "tile/8/", "tile/", 1), sum)
	}
	if err := os.WriteFile("tree.txt", []byte(out.String()), 0o644); err != nil {
		panic(err)
	}

	// The log's key has seed 7, 7, ..; the witness's 8, 8, ..
	log := ed25519.NewKeyFromSeed([]byte(strings.Repeat("\x07", 32)))
	name := "layerlane.log/" + hex.EncodeToString(log.Public().(ed25519.PublicKey))
	id := keyID(name, 1, log.Public().(ed25519.PublicKey))
	secret := base64.StdEncoding.EncodeToString(append([]byte{1}, log.Seed()...))
	signer := must(note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%x+%s", name, id, secret)))
	root := must(tlog.TreeHash(size, hashes))
	text := fmt.Sprintf("%s\n%d\n%s\n", name, size, root)
	signed := must(note.Sign(&note.Note{Text: text}, signer))
	key := base64.StdEncoding.EncodeToString(append([]byte{1}, log.Public().(ed25519.PublicKey)...))
	must(note.Open(signed, note.VerifierList(must(note.NewVerifier(fmt.Sprintf("%s+%x+%s", name, id, key))))))

	// C2SP tlog-cosignature v1, from its text.
	witness := ed25519.NewKeyFromSeed([]byte(strings.Repeat("\x08", 32)))
	public := witness.Public().(ed25519.PublicKey)
	name = "layerlane.witness/" + hex.EncodeToString(public)
	time := uint64(1790000000)
	line := binary.BigEndian.AppendUint64(keyID(name, 4, public), time)
	line = append(line, ed25519.Sign(witness, []byte(fmt.Sprintf("cosignature/v1\ntime %d\n%s", time, text)))...)
	cosigned := string(signed) + fmt.Sprintf("\u2014 %s %s\n", name, base64.StdEncoding.EncodeToString(line))
	if err := os.WriteFile("checkpoint.txt", []byte(cosigned), 0o644); err != nil {
		panic(err)
	}
}

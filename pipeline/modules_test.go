package pipeline

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const goodKey = "ed25519:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

func TestModuleKey(t *testing.T) {
	for in, want := range map[string]string{
		goodKey: goodKey, goodKey + " plant ops": goodKey + " plant ops", "  " + goodKey + "   ops \r\n": goodKey + " ops",
	} {
		var k ModuleKey
		require.NoError(t, k.UnmarshalText([]byte(in)))
		require.Equal(t, want, k.String())
		require.Equal(t, goodKey, k.ID())
	}
	for in, says := range map[string]string{
		"": "not a public key", "ops": "not a public key", strings.ToUpper(goodKey): "not a public key", goodKey[8:]: "not a public key",
		goodKey[:30]: "not a public key", strings.Replace(goodKey, "8=", "9=", 1): "not a public key", goodKey[:20] + "\n" + goodKey[20:]: "not a public key",
		goodKey + " a\nb":                                "name is not one line",
		goodKey + " \xff":                                "name is not one line",
		goodKey + " " + strings.Repeat("x", 129):         "name is not one line",
		"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwB": "this is a private key",
	} {
		var k ModuleKey
		err := k.UnmarshalText([]byte(in))
		require.ErrorContains(t, err, says, in)
		require.NotContains(t, err.Error(), "MC4C")
		require.Nil(t, k.Public)
	}
}

func TestModulesValidate(t *testing.T) {
	var k ModuleKey
	require.NoError(t, k.UnmarshalText([]byte(goodKey)))
	p := NewProblems()
	(&Modules{Trust: []ModuleKey{k}}).Validate(p)
	require.Empty(t, p.All())
	k2 := k
	k2.Name = "again"
	(&Modules{Trust: []ModuleKey{k, k2}}).Validate(p)
	require.Equal(t, []Problem{{"trust[1]", "this key is trust[0] already", "remove one of the two"}}, p.All())
}

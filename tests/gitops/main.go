// Reads objects as JSON, one a line, from standard input, and writes for each what kstatus and a health script of Argo CD make of
// it, as JSON, one a line. The only argument is the script.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// An object with a large status is some tens of KiB.
const longestLine = 4 << 20

type said struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

type verdict struct {
	Kstatus said `json:"kstatus"`
	Argo    said `json:"argo"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: %s HEALTH.LUA <OBJECTS", os.Args[0])
	}
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, longestLine)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		object := unstructured.Unstructured{}
		// Whole numbers stay whole: kstatus compares generations as such.
		if err := object.UnmarshalJSON(lines.Bytes()); err != nil {
			return err
		}
		var both verdict
		if both.Kstatus, err = kstatus(&object); err != nil {
			return fmt.Errorf("kstatus of %s: %w", object.GetName(), err)
		}
		if both.Argo, err = argo(string(script), object.Object); err != nil {
			return fmt.Errorf("%s of %s: %w", os.Args[1], object.GetName(), err)
		}
		if err := out.Encode(both); err != nil {
			return err
		}
	}
	return lines.Err()
}

func kstatus(object *unstructured.Unstructured) (said, error) {
	result, err := status.Compute(object)
	if err != nil {
		return said{}, err
	}
	return said{Status: result.Status.String(), Message: result.Message}, nil
}

// As Argo CD runs the script of a custom resource: the object is the global `obj`, nothing but the libraries base, package and table
// is there, and a table with status and message comes back.
func argo(script string, object map[string]any) (said, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{
		{lua.LoadLibName, lua.OpenPackage},
		{lua.BaseLibName, lua.OpenBase},
		{lua.TabLibName, lua.OpenTable},
	} {
		state.Push(state.NewFunction(library.open))
		state.Push(lua.LString(library.name))
		state.Call(1, 0)
	}
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		return said{}, err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return said{}, fmt.Errorf("no table comes back but %s", state.Get(-1).Type())
	}
	return said{Status: text(table, "status"), Message: text(table, "message")}, nil
}

func text(table *lua.LTable, key string) string {
	if value, ok := table.RawGetString(key).(lua.LString); ok {
		return string(value)
	}
	return ""
}

func value(state *lua.LState, any any) lua.LValue {
	switch any := any.(type) {
	case bool:
		return lua.LBool(any)
	case int64:
		return lua.LNumber(any)
	case float64:
		return lua.LNumber(any)
	case string:
		return lua.LString(any)
	case []interface{}:
		list := state.CreateTable(len(any), 0)
		for _, one := range any {
			list.Append(value(state, one))
		}
		return list
	case map[string]interface{}:
		table := state.CreateTable(0, len(any))
		for key, one := range any {
			table.RawSetString(key, value(state, one))
		}
		return table
	default:
		return lua.LNil
	}
}

// Command controlplane is a whole Kubernetes control plane and worker in one
// binary: the stock programs, chosen by the first argument or by the name the
// binary is called by. Nothing of Kubernetes is changed; one binary links their
// common 80 % once, which is what makes a local cluster quick to build.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kubeproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
	metricsserver "sigs.k8s.io/metrics-server/cmd/metrics-server/app"
)

func cobraProgram(build func() *cobra.Command) func() {
	return func() { os.Exit(cli.Run(build())) }
}

var programs = map[string]func(){
	"coredns": runCoreDNS,
	"etcd":    func() { etcdmain.Main(os.Args) },
	"kube-apiserver": cobraProgram(func() *cobra.Command {
		return apiserver.NewAPIServerCommand()
	}),
	"kube-controller-manager": cobraProgram(func() *cobra.Command {
		return controllermanager.NewControllerManagerCommand()
	}),
	"kube-proxy":     cobraProgram(func() *cobra.Command { return kubeproxy.NewProxyCommand() }),
	"kube-scheduler": cobraProgram(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kubectl":        cobraProgram(func() *cobra.Command { return kubectl.NewDefaultKubectlCommand() }),
	"kubelet": cobraProgram(func() *cobra.Command {
		// It takes the signals itself; to do so twice is a panic.
		return kubelet.NewKubeletCommand(context.Background())
	}),
	"metrics-server": cobraProgram(func() *cobra.Command {
		return metricsserver.NewMetricsServerCommand(genericapiserver.SetupSignalHandler())
	}),
}

func main() {
	name := filepath.Base(os.Args[0])
	if _, ok := programs[name]; !ok {
		if len(os.Args) < 2 {
			usage()
		}
		name = os.Args[1]
		os.Args = append([]string{name}, os.Args[2:]...)
	}
	run, ok := programs[name]
	if !ok {
		usage()
	}
	run()
}

func usage() {
	names := make([]string, 0, len(programs))
	for name := range programs {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Fprintf(os.Stderr, "usage: controlplane PROGRAM [ARG...]\nprograms: %v\n", names)
	os.Exit(2)
}

# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_microagent_global_optspecs
    string join \n state-dir= cache-dir= n/namespace= v/verbose h/help V/version
end

function __fish_microagent_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_microagent_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_microagent_using_subcommand
    set -l cmd (__fish_microagent_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c microagent -n "__fish_microagent_needs_command" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_needs_command" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_needs_command" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_needs_command" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_needs_command" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_needs_command" -s V -l version -d 'Print version'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "up" -d 'Run the workspaces that folders and `microagent apply` declare, until Ctrl-C'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "run" -d 'Run a command once in a machine of its own, and end with its exit code'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "apply" -d 'Declare workspaces, or change what is declared'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "plan" -d 'Show what manifests would change, before they do'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "get" -d 'Show workspaces'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "describe" -d 'Show all that is known of workspaces'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "logs" -d 'Show what a workspace\'s setup and workload wrote'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "exec" -d 'Run a command in a running workspace'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "cp" -d 'Copy files between a running workspace and this host'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "wait" -d 'Wait until workspaces are as asked'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "restart" -d 'Start a workspace\'s machine anew, from its present spec'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "events" -d 'Show what happened to workspaces'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "delete" -d 'Delete workspaces, with their machines and disks'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "commit" -d 'Make an image of what a halted workspace wrote'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "image" -d 'The images on this host'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "kernel" -d 'The kernels on this host'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "supervisor" -d 'The executables that drive the backends'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "doctor" -d 'Check what this host has for running workspaces'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "explain" -d 'Explain a field of the manifest'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "completion" -d 'Print the completion script of a shell'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "version" -d 'Show the version'
complete -c microagent -n "__fish_microagent_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c microagent -n "__fish_microagent_using_subcommand up" -l admin -d 'Where metrics, health and state are told: unix:PATH, ADDRESS:PORT of this host alone, or none; may be given several times [default: the socket admin.sock in the state directory]' -r
complete -c microagent -n "__fish_microagent_using_subcommand up" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand up" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand up" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand up" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand up" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand run" -l name -d 'The name [default: one that is made up]' -r
complete -c microagent -n "__fish_microagent_using_subcommand run" -s e -l env -d 'NAME=VALUE, or NAME to take our own value' -r
complete -c microagent -n "__fish_microagent_using_subcommand run" -s w -l workdir -d 'The working directory in the guest' -r
complete -c microagent -n "__fish_microagent_using_subcommand run" -s u -l user -d '`user[:group]`, by name or number' -r
complete -c microagent -n "__fish_microagent_using_subcommand run" -l entrypoint -d 'The program, in place of the image\'s own entrypoint' -r
complete -c microagent -n "__fish_microagent_using_subcommand run" -l setup -d 'Run this by /bin/sh before the command; may be given several times' -r
complete -c microagent -n "__fish_microagent_using_subcommand run" -l cpus -d 'How many CPUs' -r
complete -c microagent -n "__fish_microagent_using_subcommand run" -l memory -d 'How much memory, such as 512Mi' -r
complete -c microagent -n "__fish_microagent_using_subcommand run" -l disk -d 'How much writable disk space, such as 2Gi' -r
complete -c microagent -n "__fish_microagent_using_subcommand run" -l kernel -d 'The kernel: default, package, or the path of one' -r
complete -c microagent -n "__fish_microagent_using_subcommand run" -l pull -d 'When the registry is asked for the image' -r -f -a "always\t''
missing\t''
never\t''"
complete -c microagent -n "__fish_microagent_using_subcommand run" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand run" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand run" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand run" -l keep -d 'Keep the workspace, with its disks and logs, when the command has ended'
complete -c microagent -n "__fish_microagent_using_subcommand run" -s d -l detach -d 'Print the name and leave the rest to the controller that is up'
complete -c microagent -n "__fish_microagent_using_subcommand run" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand run" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand apply" -s f -l filename -d 'A manifest, a directory of manifests, or - for standard input' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand apply" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand apply" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand apply" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand apply" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand apply" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand apply" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand plan" -s f -l filename -d 'A manifest, a folder of manifests, or - for standard input' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand plan" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand plan" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand plan" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand plan" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand plan" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand plan" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand get" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand get" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand get" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand get" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand get" -s A -l all-namespaces -d 'Of all namespaces'
complete -c microagent -n "__fish_microagent_using_subcommand get" -s w -l watch -d 'Go on with what changes from now on'
complete -c microagent -n "__fish_microagent_using_subcommand get" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand get" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand describe" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand describe" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand describe" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand describe" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand describe" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand describe" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand logs" -l tail -d 'Only the last lines of what is there' -r
complete -c microagent -n "__fish_microagent_using_subcommand logs" -l since -d 'Only what was written less than this ago, such as 30s or 1h' -r
complete -c microagent -n "__fish_microagent_using_subcommand logs" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand logs" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand logs" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand logs" -s f -l follow -d 'Go on with what is written from now on, until the workload has ended for good'
complete -c microagent -n "__fish_microagent_using_subcommand logs" -l console -d 'The machine\'s serial console instead: its kernel and guest-init'
complete -c microagent -n "__fish_microagent_using_subcommand logs" -l timestamps -d 'Show when each line was written'
complete -c microagent -n "__fish_microagent_using_subcommand logs" -l no-setup -d 'Leave out what setup commands wrote'
complete -c microagent -n "__fish_microagent_using_subcommand logs" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand logs" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand exec" -s u -l user -d '`user[:group]`, by name or number [default: the workload\'s]' -r
complete -c microagent -n "__fish_microagent_using_subcommand exec" -s w -l workdir -d 'The working directory in the guest [default: the workload\'s]' -r
complete -c microagent -n "__fish_microagent_using_subcommand exec" -s e -l env -d 'NAME=VALUE, or NAME to take our own value; beside the workload\'s environment' -r
complete -c microagent -n "__fish_microagent_using_subcommand exec" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand exec" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand exec" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand exec" -s i -l stdin -d 'Give the command our standard input'
complete -c microagent -n "__fish_microagent_using_subcommand exec" -s t -l tty -d 'Give the command our terminal'
complete -c microagent -n "__fish_microagent_using_subcommand exec" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand exec" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand cp" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand cp" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand cp" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand cp" -s a -l archive -d 'Keep the owners: numbers of users and groups'
complete -c microagent -n "__fish_microagent_using_subcommand cp" -s L -l follow-link -d 'Copy what SRC leads to when it is a symbolic link'
complete -c microagent -n "__fish_microagent_using_subcommand cp" -s q -l quiet -d 'Show no progress'
complete -c microagent -n "__fish_microagent_using_subcommand cp" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand cp" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand wait" -l for -d 'What to wait for: condition=TYPE[=STATUS] or delete' -r
complete -c microagent -n "__fish_microagent_using_subcommand wait" -l timeout -d 'How long to wait; 0 looks once' -r
complete -c microagent -n "__fish_microagent_using_subcommand wait" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand wait" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand wait" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand wait" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand wait" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand restart" -l timeout -d 'How long to wait' -r
complete -c microagent -n "__fish_microagent_using_subcommand restart" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand restart" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand restart" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand restart" -l wait -d 'Wait until the new machine is Ready'
complete -c microagent -n "__fish_microagent_using_subcommand restart" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand restart" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand events" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand events" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand events" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand events" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand events" -s A -l all-namespaces -d 'Of all namespaces'
complete -c microagent -n "__fish_microagent_using_subcommand events" -s w -l watch -d 'Go on with what happens from now on'
complete -c microagent -n "__fish_microagent_using_subcommand events" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand events" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand delete" -s f -l filename -d 'Those that a manifest, or a directory of manifests, declares' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand delete" -l wait -d 'Wait until nothing of them is left' -r -f -a "true\t''
false\t''"
complete -c microagent -n "__fish_microagent_using_subcommand delete" -l timeout -d 'How long to wait; without it as long as it takes' -r
complete -c microagent -n "__fish_microagent_using_subcommand delete" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand delete" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand delete" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand delete" -l ignore-not-found -d 'A workspace that is not there is no failure'
complete -c microagent -n "__fish_microagent_using_subcommand delete" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand delete" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand commit" -s m -l message -d 'What the image\'s history says of the layer' -r
complete -c microagent -n "__fish_microagent_using_subcommand commit" -s a -l author -d 'Who made it' -r
complete -c microagent -n "__fish_microagent_using_subcommand commit" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand commit" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand commit" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand commit" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand commit" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand commit" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "pull" -d 'Bring an image onto this host'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "list" -d 'Show the images on this host'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "ls" -d 'Show the images on this host'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "df" -d 'Show how much of the disk images and root disks take'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "inspect" -d 'Show how an image on this host wants to be run'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "tag" -d 'Give an image another name'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "remove" -d 'Remove images from this host, with the root disks made from them'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "rm" -d 'Remove images from this host, with the root disks made from them'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "prune" -d 'Remove what nobody uses: images without a name, root disks, interrupted pulls'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "export" -d 'Write an image to a file that other tools read'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "push" -d 'Send an image to a registry'
complete -c microagent -n "__fish_microagent_using_subcommand image; and not __fish_seen_subcommand_from pull list ls df inspect tag remove rm prune export push help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from pull" -l platform -d 'For this platform, such as linux/arm64 [default: that of this host]' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from pull" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from pull" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from pull" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from pull" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from pull" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from pull" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from list" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from list" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from list" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from list" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from list" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from ls" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from ls" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from ls" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from ls" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from ls" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from df" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from df" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from df" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from df" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from df" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from df" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from inspect" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from inspect" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from inspect" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from inspect" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from inspect" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from inspect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from tag" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from tag" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from tag" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from tag" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from tag" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from remove" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from remove" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from remove" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from remove" -s f -l force -d 'Take the name away also when the image is in use; the image then stays without a name'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from remove" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from rm" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from rm" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from rm" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from rm" -s f -l force -d 'Take the name away also when the image is in use; the image then stays without a name'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from rm" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from prune" -l older-than -d 'Only what has been on this host for so long, such as 24h' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from prune" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from prune" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from prune" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from prune" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from prune" -s a -l all -d 'Images with a name too'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from prune" -l dry-run -d 'Only say what would be removed'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from prune" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from export" -l platform -d 'Of this platform, such as linux/arm64 [default: that of this host, or the only one there is]' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from export" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from export" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from export" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from export" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from export" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from push" -l platform -d 'Of this platform, such as linux/arm64 [default: that of this host, or the only one there is]' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from push" -l insecure-registry -d 'A registry, as `host[:port]`, that is spoken to without encryption; one on a loopback address always is' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from push" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from push" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from push" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from push" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from push" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from push" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "pull" -d 'Bring an image onto this host'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "list" -d 'Show the images on this host'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "df" -d 'Show how much of the disk images and root disks take'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "inspect" -d 'Show how an image on this host wants to be run'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "tag" -d 'Give an image another name'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "remove" -d 'Remove images from this host, with the root disks made from them'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "prune" -d 'Remove what nobody uses: images without a name, root disks, interrupted pulls'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "export" -d 'Write an image to a file that other tools read'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "push" -d 'Send an image to a registry'
complete -c microagent -n "__fish_microagent_using_subcommand image; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -f -a "list" -d 'Show the kernels that are installed'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -f -a "ls" -d 'Show the kernels that are installed'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -f -a "install" -d 'Install a kernel: the distribution\'s signed package, or a file'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -f -a "build" -d 'Build a lean kernel of the distribution\'s signed source, and install it'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -f -a "check" -d 'Ask the host\'s package sources whether they have a newer kernel than those installed'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -f -a "verify" -d 'Check that installed kernels are whole and have what workspaces, backends and workloads need'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -f -a "remove" -d 'Remove installed kernels'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -f -a "rm" -d 'Remove installed kernels'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and not __fish_seen_subcommand_from list ls install build check verify remove rm help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from list" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from list" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from list" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from list" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from list" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from ls" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from ls" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from ls" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from ls" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from ls" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from install" -l version -d 'This version, or one that starts so' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from install" -l modules -d 'The directory of the modules of a kernel that is named by its path' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from install" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from install" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from install" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from install" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from install" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from install" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from build" -l fragment -d 'A file of options that are added to ours, such as CONFIG_BTRFS_FS=y; a later one wins' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from build" -l jobs -d 'How many programs run at a time [default: as many as there are CPUs]' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from build" -l version -d 'Of the source of this version, or one that starts so [default: the newest]' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from build" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from build" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from build" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from build" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from build" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from build" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from check" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from check" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from check" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from check" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from check" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from verify" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from verify" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from verify" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from verify" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from verify" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from remove" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from remove" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from remove" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from remove" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from rm" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from rm" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from rm" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from rm" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from help" -f -a "list" -d 'Show the kernels that are installed'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from help" -f -a "install" -d 'Install a kernel: the distribution\'s signed package, or a file'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from help" -f -a "build" -d 'Build a lean kernel of the distribution\'s signed source, and install it'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from help" -f -a "check" -d 'Ask the host\'s package sources whether they have a newer kernel than those installed'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from help" -f -a "verify" -d 'Check that installed kernels are whole and have what workspaces, backends and workloads need'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from help" -f -a "remove" -d 'Remove installed kernels'
complete -c microagent -n "__fish_microagent_using_subcommand kernel; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and not __fish_seen_subcommand_from conformance help" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and not __fish_seen_subcommand_from conformance help" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and not __fish_seen_subcommand_from conformance help" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and not __fish_seen_subcommand_from conformance help" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and not __fish_seen_subcommand_from conformance help" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and not __fish_seen_subcommand_from conformance help" -f -a "conformance" -d 'Run an executable through the whole supervisor protocol, and tell which promises it keeps'
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and not __fish_seen_subcommand_from conformance help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and __fish_seen_subcommand_from conformance" -l only -d 'Make only these checks' -r
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and __fish_seen_subcommand_from conformance" -l backend-options -d 'The backend\'s own options for its machines, as JSON: what stands in a machine\'s configuration under the backend\'s name' -r
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and __fish_seen_subcommand_from conformance" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and __fish_seen_subcommand_from conformance" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and __fish_seen_subcommand_from conformance" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and __fish_seen_subcommand_from conformance" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and __fish_seen_subcommand_from conformance" -l list -d 'Show the checks and what each proves, and make none'
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and __fish_seen_subcommand_from conformance" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and __fish_seen_subcommand_from conformance" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and __fish_seen_subcommand_from help" -f -a "conformance" -d 'Run an executable through the whole supervisor protocol, and tell which promises it keeps'
complete -c microagent -n "__fish_microagent_using_subcommand supervisor; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c microagent -n "__fish_microagent_using_subcommand doctor" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand doctor" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand doctor" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand doctor" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand doctor" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand explain" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand explain" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand explain" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand explain" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand explain" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand completion" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand completion" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand completion" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand completion" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand completion" -s h -l help -d 'Print help'
complete -c microagent -n "__fish_microagent_using_subcommand version" -s o -l output -d 'The form of the output' -r -f -a "table\t'Columns for people'
wide\t'More columns'
json\t'JSON'
yaml\t'YAML'
name\t'One name a line'"
complete -c microagent -n "__fish_microagent_using_subcommand version" -l state-dir -d 'Where workspaces are kept [default: /var/lib/microagent for root, else $XDG_STATE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand version" -l cache-dir -d 'Where images and kernels are kept [default: /var/cache/microagent for root, else $XDG_CACHE_HOME/microagent]' -r -F
complete -c microagent -n "__fish_microagent_using_subcommand version" -s n -l namespace -d 'The namespace' -r
complete -c microagent -n "__fish_microagent_using_subcommand version" -s v -l verbose -d 'Tell more; give it twice for everything'
complete -c microagent -n "__fish_microagent_using_subcommand version" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "up" -d 'Run the workspaces that folders and `microagent apply` declare, until Ctrl-C'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "run" -d 'Run a command once in a machine of its own, and end with its exit code'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "apply" -d 'Declare workspaces, or change what is declared'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "plan" -d 'Show what manifests would change, before they do'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "get" -d 'Show workspaces'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "describe" -d 'Show all that is known of workspaces'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "logs" -d 'Show what a workspace\'s setup and workload wrote'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "exec" -d 'Run a command in a running workspace'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "cp" -d 'Copy files between a running workspace and this host'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "wait" -d 'Wait until workspaces are as asked'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "restart" -d 'Start a workspace\'s machine anew, from its present spec'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "events" -d 'Show what happened to workspaces'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "delete" -d 'Delete workspaces, with their machines and disks'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "commit" -d 'Make an image of what a halted workspace wrote'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "image" -d 'The images on this host'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "kernel" -d 'The kernels on this host'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "supervisor" -d 'The executables that drive the backends'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "doctor" -d 'Check what this host has for running workspaces'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "explain" -d 'Explain a field of the manifest'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "completion" -d 'Print the completion script of a shell'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "version" -d 'Show the version'
complete -c microagent -n "__fish_microagent_using_subcommand help; and not __fish_seen_subcommand_from up run apply plan get describe logs exec cp wait restart events delete commit image kernel supervisor doctor explain completion version help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "pull" -d 'Bring an image onto this host'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "list" -d 'Show the images on this host'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "df" -d 'Show how much of the disk images and root disks take'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "inspect" -d 'Show how an image on this host wants to be run'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "tag" -d 'Give an image another name'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "remove" -d 'Remove images from this host, with the root disks made from them'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "prune" -d 'Remove what nobody uses: images without a name, root disks, interrupted pulls'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "export" -d 'Write an image to a file that other tools read'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from image" -f -a "push" -d 'Send an image to a registry'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from kernel" -f -a "list" -d 'Show the kernels that are installed'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from kernel" -f -a "install" -d 'Install a kernel: the distribution\'s signed package, or a file'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from kernel" -f -a "build" -d 'Build a lean kernel of the distribution\'s signed source, and install it'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from kernel" -f -a "check" -d 'Ask the host\'s package sources whether they have a newer kernel than those installed'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from kernel" -f -a "verify" -d 'Check that installed kernels are whole and have what workspaces, backends and workloads need'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from kernel" -f -a "remove" -d 'Remove installed kernels'
complete -c microagent -n "__fish_microagent_using_subcommand help; and __fish_seen_subcommand_from supervisor" -f -a "conformance" -d 'Run an executable through the whole supervisor protocol, and tell which promises it keeps'

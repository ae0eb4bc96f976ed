#!/bin/bash
# Start a Slurm on this machine to try the slurm profile: two nodes with two GPUs each, none of them real.
#   workflow/slurm_here.sh start | stop
# Run it as root, with Debian's packages slurmctld slurmd slurm-client munge. It writes /etc/slurm/slurm.conf and gres.conf
# (jobs read no other place) and refuses if another Slurm is configured. Logs and state are in /tmp/slurm-here.
set -euo pipefail

HOME_HERE=/tmp/slurm-here
MARK="# written by workflow/slurm_here.sh"
CONF=/etc/slurm/slurm.conf
GRES=/etc/slurm/gres.conf

stop() {
    for file in "$HOME_HERE"/*.pid "$HOME_HERE"/munge/*.pid; do
        [[ -e $file ]] || continue
        pid=$(<"$file")
        kill "$pid" 2>/dev/null || true
        timeout 20 tail --pid="$pid" -f /dev/null || kill -9 "$pid"
    done
    for conf in "$CONF" "$GRES"; do
        if [[ -e $conf ]] && grep -qx "$MARK" "$conf"; then rm "$conf"; fi
    done
    rm -rf "$HOME_HERE"
}

start() {
    for conf in "$CONF" "$GRES"; do
        if [[ -e $conf ]] && ! grep -qx "$MARK" "$conf"; then
            echo "$conf belongs to another Slurm: remove it first, this script would replace it" >&2
            exit 2
        fi
    done
    stop
    mkdir -p "$HOME_HERE"/state
    touch "$HOME_HERE"/gpu{0..3} # the files that Slurm counts as GPUs
    install -d -o munge -g munge /run/munge "$HOME_HERE"/munge
    munge --no-input --output /dev/null 2>/dev/null ||
        runuser -u munge -- munged --pid-file "$HOME_HERE"/munge/munged.pid

    cat >"$CONF" <<END
$MARK
ClusterName=here
SlurmctldHost=$(hostname)(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
GresTypes=gpu
KillWait=5
StateSaveLocation=$HOME_HERE/state
SlurmctldPidFile=$HOME_HERE/slurmctld.pid
SlurmctldLogFile=$HOME_HERE/slurmctld.log
SlurmdSpoolDir=$HOME_HERE/spool-%n
SlurmdPidFile=$HOME_HERE/slurmd-%n.pid
SlurmdLogFile=$HOME_HERE/slurmd-%n.log
NodeName=here1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17001 CPUs=$(nproc) RealMemory=16000 Gres=gpu:2
NodeName=here2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17002 CPUs=$(nproc) RealMemory=16000 Gres=gpu:2
PartitionName=here Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    cat >"$GRES" <<END
$MARK
NodeName=here1 Name=gpu File=$HOME_HERE/gpu[0-1]
NodeName=here2 Name=gpu File=$HOME_HERE/gpu[2-3]
END
    slurmctld
    slurmd -N here1
    slurmd -N here2
    for _ in {1..100}; do
        [[ $(sinfo --noheader --format %T) == idle ]] && exit
        sleep 0.1
    done
    echo "the nodes did not start: see $HOME_HERE/*.log" >&2
    exit 1
}

case ${1:-} in
    start | stop) "$1" ;;
    *) echo "workflow/slurm_here.sh start | stop" >&2 && exit 2 ;;
esac

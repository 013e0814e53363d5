# What the launch scripts share; sourced by them, never run. Needs bash 5.1.
# shellcheck shell=bash

dry_run=

# fail MESSAGE: one line on stderr and exit status 2.
fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) ||
  fail "found bash $BASH_VERSION, expected 5.1 or newer"

# value FLAG VALUE…: the flag's value.
value() {
  [[ -n ${2-} && $2 != -* ]] || fail "$1: found ${2:-nothing}, expected a value"
  printf '%s\n' "$2"
}

# number FLAG VALUE…: the flag's value, a positive whole number.
number() {
  [[ ${2-} =~ ^[1-9][0-9]{0,8}$ ]] || fail "$1: found ${2:-nothing}, expected a positive number"
  printf '%s\n' "$2"
}

# need NAME…: refuses to go on without the values of these flags.
need() {
  local name
  for name; do [[ -n ${!name} ]] || fail "--$name must be given; see --help"; done
}

# quoted WORD…: the words as one line of shell that means exactly them.
quoted() {
  local word line=() quote="'\\''"
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//"'"/"$quote"}'"
    line+=("$word")
  done
  printf '%s\n' "${line[*]}"
}

# tool NAME SOURCE: refuses to go on without the tool, except when only printing.
tool() {
  [[ -n $dry_run ]] || command -v "$1" >/dev/null ||
    fail "$1: not found on PATH; it comes with $2"
}

# run WORD…: runs the command, or prints it.
run() {
  if [[ -n $dry_run ]]; then quoted "$@"; else "$@"; fi
}

# --help prints the comment at the head of the script.
for word; do
  case $word in
    -h | --help) sed -n '2,/^[^#]/{s/^#$//p;s/^# //p;}' "$0" && exit ;;
    --) break ;;
  esac
done

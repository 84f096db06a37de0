# For packaging/check: what the package and the module come to, with stand-ins for nixpkgs.
let
  lib = {
    mkEnableOption = text: { default = false; };
    mkOption = option: option;
    mkIf = condition: content: if condition then content else { };
    optional = condition: value: if condition then [ value ] else [ ];
    licenses = { mit = "MIT"; asl20 = "Apache-2.0"; };
    types = { package = "package"; listOf = type: "list of ${type}"; };
  };
  rustPlatform.buildRustPackage = attributes: attributes;
  package = import ./package.nix { inherit lib rustPlatform; python3 = "/python3"; };
  pkgs = {
    kmod = "/kmod";
    networkmanager = "/networkmanager";
    formats.toml = _: { type = "toml"; generate = name: _: "/store/${name}"; };
    callPackage = file: arguments: package;
  };
  module = enable: settings: import ./module.nix {
    inherit lib pkgs;
    config = {
      services.hyperv-agent = { inherit enable settings; package = "/agent"; path = [ "/mine" ]; };
      systemd.package = "/systemd";
      networking.networkmanager.enable = true;
      environment.etc."hyperv-agent/config.toml".source = "/store/hyperv-agent.toml";
    };
  };
  on = (module true { }).config;
  without = (module true { services.kvp = false; }).config;
in
{
  inherit (package) pname version;
  lock = builtins.pathExists package.cargoLock.lockFile;
  options = builtins.attrNames (module true { }).options.services.hyperv-agent;
  off = (module false { }).config;
  unit = on.systemd.services.hyperv-agent;
  stock = map (name: on.systemd.services.${name}.enable) [ "hv-fcopy" "hv-kvp" "hv-vss" ];
  udev = on.services.udev.packages;
  left = builtins.attrNames without.systemd.services;
  stops = builtins.elemAt without.systemd.services.hyperv-agent.serviceConfig.ExecStartPre 1;
  directories = on.systemd.tmpfiles.rules;
  installs = package.installPhase;
}

# NixOS module: imports = [ …/packaging/nix/module.nix ]; services.hyperv-agent.enable = true;
{ config, lib, pkgs, ... }:

let
  cfg = config.services.hyperv-agent;
  format = pkgs.formats.toml { };
  # Each has its daemon in virtualisation.hypervGuest.
  services = builtins.filter (name: cfg.settings.services.${name} or true) [ "fcopy" "kvp" "vss" ];
  daemons = map (name: "hv-${name}") services;
in
{
  options.services.hyperv-agent = {
    enable = lib.mkEnableOption "hyperv-agent, which replaces the daemons of virtualisation.hypervGuest";
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      description = "The package of hyperv-agent.";
    };
    settings = lib.mkOption {
      inherit (format) type;
      default = { };
      example = { services.fcopy = false; };
      description = "The configuration, as hyperv-agent.toml(5) describes it.";
    };
    path = lib.mkOption {
      type = lib.types.listOf lib.types.package;
      default = [ ];
      description = "Packages with programs for the hooks and for the network manager's script.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."hyperv-agent/config.toml".source = format.generate "hyperv-agent.toml" cfg.settings;

    systemd.packages = [ cfg.package ];
    systemd.services = {
      hyperv-agent = {
        # NixOS does not read [Install].
        wantedBy = [ "multi-user.target" ];
        reloadTriggers = [ config.environment.etc."hyperv-agent/config.toml".source ];
        path = [ config.systemd.package pkgs.kmod ]
          ++ lib.optional config.networking.networkmanager.enable pkgs.networkmanager
          ++ cfg.path;
        serviceConfig = {
          # systemctl is elsewhere than the unit says. An empty line clears the unit's own.
          ExecStartPre = [ "" "-${config.systemd.package}/bin/systemctl stop ${toString (map (name: "${name}.service") daemons)}" ];
        };
      };
    }
    # The daemons of services that are switched on stay out of the way.
    // builtins.listToAttrs (map (name: { inherit name; value.enable = false; }) daemons);

    systemd.tmpfiles.rules = [
      "d /var/lib/hyperv 0755 root root -"
      "d /etc/hyperv-agent/vss.d 0755 root root -"
    ];
    # NixOS replaces the rule's "/sbin/modprobe" with the path of its own.
    services.udev.packages = [ cfg.package ];
  };
}
